"""Inference engines that run the exported plain network: ONNX Runtime and OpenVINO on CPUs, TensorRT on GPUs."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.precision import Precision
from benchmarks.work import Work

Compiled = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Runtime:
    """An inference engine.

    Attributes:
        packages: that it needs.
        device: type of device it is compared on.
        load: takes the plain network in evaluation mode, images and the precision; returns what computes logits.
    """

    packages: tuple[str, ...]
    device: str
    load: Callable[[nn.Module, Tensor, Precision], Compiled]

    @property
    def missing(self) -> str:
        """Packages that are not installed, "" if all are."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        return f"{', '.join(missing)} not installed" if missing else ""

    def compile(self, work: Work, precision: Precision) -> Compiled:
        """Return what computes the same as a module on its images.

        Raises:
            NotImplementedError: the engine is not used in this precision.
        """
        module, (images, *_) = work.function, work.arguments
        assert isinstance(module, nn.Module)
        return self.load(module, images, precision)


def _export(module: nn.Module, images: Tensor, precision: Precision) -> Any:
    if precision.name != "fp32":
        raise NotImplementedError("compared in float32 on CPUs")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter reports its progress
        program = torch.onnx.export(module, (images,), dynamo=True)
    assert program is not None
    return program.model_proto


def _onnx_runtime(module: nn.Module, images: Tensor, precision: Precision) -> Compiled:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = _export(module, images, precision).SerializeToString()
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _openvino(module: nn.Module, images: Tensor, precision: Precision) -> Compiled:
    openvino = importlib.import_module("openvino")
    model = openvino.Core().read_model(_export(module, images, precision).SerializeToString())
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(model, "CPU", options)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])


def _tensorrt(module: nn.Module, images: Tensor, precision: Precision) -> Compiled:
    importlib.import_module("torch_tensorrt")  # registers the backend
    options: dict[str, Any] = {
        "enabled_precisions": {torch.float32, precision.features},
        "disable_tf32": not precision.tf32,
    }
    compiled: Compiled = torch.compile(module, backend="tensorrt", dynamic=False, options=options)
    return compiled


RUNTIMES = {
    "ONNX Runtime": Runtime(("onnxruntime", "onnxscript"), "cpu", _onnx_runtime),
    "OpenVINO": Runtime(("openvino", "onnxscript"), "cpu", _openvino),
    "TensorRT": Runtime(("torch_tensorrt",), "cuda", _tensorrt),
}
