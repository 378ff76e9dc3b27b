"""Run the folded network on CPUs through a compiler: PyTorch's Inductor, or OpenVINO."""

from __future__ import annotations

import copy
import io
import sys
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fastresunet.inference.exporting import SMALLEST_SIDE, describe, export_program
from fastresunet.inference.extras import ExportError, require
from fastresunet.inference.network import FoldedResUNetPP
from fastresunet.inference.onnx_file import onnx_model

Engine = Literal["inductor", "openvino"]
_KEPT_SHAPES = 8


def compile_for_cpu(folded: FoldedResUNetPP, engine: Engine = "openvino") -> nn.Module:
    """Return a module that computes what the folded network computes on the CPU, compiled for each image shape.

    The first image of a shape (N, H, W) takes the time to compile, with Inductor much longer than with OpenVINO.
    OpenVINO keeps the last 8 shapes; Inductor the first 8, and the folded network computes all others. The weights are
    copied. Both run in float32 on PyTorch's number of threads.

    Args:
        folded: network in float32 on the CPU.
        engine: ``"inductor"``, ``torch.compile`` with frozen weights, needs a C++ compiler; ``"openvino"``, the
            exported ONNX model in OpenVINO, needs the ``cpu`` extra.

    Returns:
        Module with the call of the folded network; not for several threads at once.

    Raises:
        ExportError: the engine, the network's dtype or its device cannot be used, or something to install is missing.
    """
    if engine not in get_args(Engine):
        raise ExportError(f"the engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    parameter = folded.head.bias
    if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
        raise ExportError(
            f"engines for the CPU take a float32 network on the CPU, got {parameter.dtype} on {parameter.device}; "
            'use folded.to("cpu", torch.float32)'
        )
    return _InductorEngine(folded) if engine == "inductor" else _OpenVINOEngine(folded)


def openvino_settings() -> dict[str, str | int]:
    """Return OpenVINO's settings for one image after another, in float32 on PyTorch's number of threads."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        # OpenVINO would round to bfloat16 where the processor multiplies it.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }


class _Engine(nn.Module):
    """Checks, padding and cropping of the folded network, around logits that a compiler computes."""

    def __init__(self, folded: FoldedResUNetPP) -> None:
        super().__init__()
        self.folded = copy.deepcopy(folded)
        self.folded.backend = "torch"

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        logits = self.compiled_logits(self.folded.padded(x))
        return logits[:, :, : x.shape[2], : x.shape[3]].contiguous()

    def compiled_logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class _InductorEngine(_Engine):
    def __init__(self, folded: FoldedResUNetPP) -> None:
        super().__init__(folded)
        self._logits = torch.compile(self.folded.logits, fullgraph=True, dynamic=False, options={"freezing": True})
        self._shapes: set[torch.Size] = set()

    def compiled_logits(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if x.shape not in self._shapes and len(self._shapes) == _KEPT_SHAPES:
            return self.folded.logits(x)
        self._shapes.add(x.shape)
        # The limit would count the shapes of all networks together, and end in an error.
        with torch._dynamo.config.patch(recompile_limit=sys.maxsize):
            return self._logits(x)


class _OpenVINOEngine(_Engine):
    def __init__(self, folded: FoldedResUNetPP) -> None:
        super().__init__(folded)
        openvino: Any = require("openvino", "the engine openvino")
        self._core = openvino.Core()
        model = onnx_model(export_program(self.folded), describe(self.folded))
        self._model = self._core.read_model(io.BytesIO(model))
        self._requests: dict[torch.Size, Any] = {}

    def compiled_logits(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < SMALLEST_SIDE:
            return self.folded.logits(x)
        request = self._requests.pop(x.shape, None) or self._compile(x.shape)
        self._requests[x.shape] = request  # last used, last dropped
        return torch.from_numpy(request.infer([x.contiguous().numpy()], share_inputs=True)[0])

    def _compile(self, shape: torch.Size) -> Any:
        if len(self._requests) == _KEPT_SHAPES:
            del self._requests[next(iter(self._requests))]
        model = self._model.clone()
        model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", openvino_settings()).create_infer_request()
