"""The folded network as an ONNX model, and ONNX Runtime to run it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fastresunet.inference.extras import ExportError, require

OPSET = 18
_AXES = {0: "batch", 2: "height", 3: "width"}


def onnx_model(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    """Convert an exported program to ONNX.

    Args:
        program: of ``exporting.export_program``.
        metadata: stored as the model's properties.

    Returns:
        The serialised model: opset 18, standard operators only, input ``image`` and output ``logits``.

    Raises:
        ExportError: onnx or onnxscript is not installed.
    """
    onnx = require("onnx", "ONNX export")
    require("onnxscript", "ONNX export")
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells every pass and optional package that it does not need
    try:
        converted = torch.onnx.export(
            program, (), opset_version=OPSET, input_names=["image"], output_names=["logits"], verbose=False
        )
    finally:
        logger.setLevel(level)
    assert converted is not None
    model = converted.model_proto
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in _AXES.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    # Sizes of the maps between are formulas in the exporter's own symbols; any reader infers them again.
    del model.graph.value_info[:]
    foreign = sorted({node.domain for node in model.graph.node} - {""})
    if foreign or model.functions:
        raise ExportError(f"the exporter used operators outside the ONNX standard: {', '.join(foreign) or 'functions'}")
    onnx.helper.set_model_props(model, metadata)
    model.producer_name = metadata["name"]
    model.producer_version = metadata["version"]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def run_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    """Return a function that runs a model file in ONNX Runtime on the CPU.

    Args:
        file: ONNX model with one input and one output.

    Raises:
        ExportError: onnxruntime is not installed.
    """
    runtime = require("onnxruntime", "checking an ONNX file")
    session: Any = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.numpy()})[0])

    return run
