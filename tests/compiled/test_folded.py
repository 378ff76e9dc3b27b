"""The folded network's operations, compiled: sides, signs, affines of all samples, pyramids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastresunet_kernels.launchers import LAUNCHERS

from fastresunet.ops import torch_backend
from tests.compiled.twins import assert_close
from tests.folded_cases import NAMES, cast, folded_case


def check(name: str, channels: int, dtype: torch.dtype) -> None:
    operation, operands = folded_case(name, channels)
    twin: Any = getattr(torch_backend, operation)
    results: list[Any] = [
        function(*cast(operands, kind))
        for kind, function in ((dtype, LAUNCHERS[operation]), (dtype, twin), (torch.float64, twin))
    ]
    result, plain, exact = (value if isinstance(value, tuple) else (value,) for value in results)
    assert_close(result, plain, exact, dtype, 18 * channels)


@pytest.mark.parametrize("name", NAMES)
def test_folded(architecture: int, name: str) -> None:
    check(name, 16, torch.bfloat16)


@pytest.mark.parametrize("name", ["upsampled-and-skip-beside", "pyramid"])
def test_folded_with_odd_channels(architecture: int, name: str) -> None:
    check(name, 21, torch.bfloat16)


def test_folded_in_float32(architecture: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check("upsampled-and-skip-beside", 32, torch.float32)
