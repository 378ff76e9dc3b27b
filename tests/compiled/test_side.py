"""Gradients of a convolution with a 1x1 convolution beside it, compiled: all ranges of their common launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from fastresunet_kernels.gradients import conv_gradients
from torch import Tensor

from fastresunet.ops import torch_backend
from fastresunet.ops.layout import channels_last
from tests.compiled.twins import assert_close


@dataclass(frozen=True)
class Case:
    """Channels and size as read of a residual block's first convolution and shortcut; ``image``: no source gradient."""

    name: str
    channels: tuple[int, ...]
    out: int
    size: tuple[int, int]
    stride: int = 1
    upsample: tuple[bool, ...] = (False,)
    image: bool = False
    added: bool = False


CASES = [
    Case("image", (3,), 16, (18, 20), image=True),
    Case("encoder-16-to-32", (16,), 32, (16, 24), stride=2, added=True),
    Case("encoder-64-to-128", (64,), 128, (12, 16), stride=2),
    Case("decoder-64-and-16-to-32", (64, 16), 32, (16, 16), upsample=(True, False)),
    Case("odd-channels", (20, 5), 17, (6, 10), upsample=(True, False)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients_beside_a_shortcut(architecture: int, case: Case) -> None:
    operands, dtype = random_operands(case), torch.bfloat16
    twin: Callable[..., Any] = torch_backend.conv_gradients
    result, plain, exact = (
        function(*cast(rounded(operands, dtype), kind))[3:]
        for kind, function in ((dtype, conv_gradients), (dtype, twin), (torch.float64, twin))
    )
    assert_close(result, plain, exact, dtype, 9 * sum(case.channels) + case.size[0] * case.size[1])


def random_operands(case: Case) -> tuple[Any, ...]:
    """Return the arguments of ``conv_gradients`` in float32."""
    height, width = ((size - 1) // case.stride + 1 for size in case.size)
    sizes = [[size // (2 if up else 1) for size in case.size] for up in case.upsample]
    data = [torch.randn(2, c, *size) for c, size in zip(case.channels, sizes, strict=True)]
    written = (2, case.out, height, width)
    inputs, scales = sum(case.channels), [torch.rand(1, 2, c) + 0.5 for c in case.channels]
    affine = [torch.empty(0) if case.image else torch.rand(3, 2, c) + 0.5 for c in case.channels]
    return (
        torch.randn(written),
        torch.randn(3, 2, case.out) / 16,
        torch.randn(written),
        torch.empty(0),
        data,
        affine,
        [not case.image] * len(data),
        list(case.upsample),
        torch.randn(case.out, inputs, 3, 3) / (9 * inputs) ** 0.5,
        case.stride,
        1,
        None,
        None,
        False,
        False,
        not case.image,
        True,
        torch.randn(data[0].shape) if case.added else None,
        torch.randn(written),
        torch.randn(case.out, inputs, 1, 1) / inputs**0.5,
        [torch.empty(0) if case.image else scale for scale in scales],
        True,
    )


def rounded(value: Any, dtype: torch.dtype) -> Any:
    """Return images and weights rounded to ``dtype``."""
    if isinstance(value, list | tuple):
        return type(value)(rounded(one, dtype) for one in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.ndim == 4 else value


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Return images and weights in ``dtype``, channels-last, and vectors in float32 at least."""
    if isinstance(value, list | tuple):
        return type(value)(cast(one, dtype) for one in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4:
        return channels_last(value.to(dtype))
    return value.to(torch.promote_types(dtype, torch.float32))
