"""The kernels' compiled code, with bounds checks, against the PyTorch backend: every case of the operation."""

from __future__ import annotations

import pytest
import torch

from tests.compiled.twins import check_backward, check_forward
from tests.ops.cases import CASES, ConvCase

SUPPORTED = [case for case in CASES if case.name != "upsample-pool"]
# The network's kinds of convolution.
LAYERS = ("plain", "image", "stride2", "pointwise", "residual", "gate", "pool", "decoder")


@pytest.mark.parametrize("case", SUPPORTED, ids=lambda case: case.name)
def test_forward(architecture: int, case: ConvCase) -> None:
    check_forward(case, torch.bfloat16)


@pytest.mark.parametrize("case", [case for case in SUPPORTED if case.name in LAYERS], ids=lambda case: case.name)
def test_backward(architecture: int, case: ConvCase) -> None:
    check_backward(case, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", ["plain", "decoder"])
def test_other_dtypes(architecture: int, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check_forward(next(case for case in CASES if case.name == name), dtype)
