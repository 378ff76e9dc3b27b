"""Compiled kernels launched from recordings compute, bit by bit, what they compute launched through Triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from fastresunet_kernels import prepared
from fastresunet_kernels.convolution import conv
from fastresunet_kernels.normalized_sum import conv_norm_sum, conv_norm_sum_backward
from fastresunet_kernels.prepared import Prepared
from torch import Tensor

from fastresunet.ops.layout import channels_last


def image(channels: int, size: int) -> Tensor:
    """Return bfloat16 features of one sample."""
    return channels_last(torch.randn(1, channels, size, size).bfloat16())


def decoder_convolution() -> tuple[Any, ...]:
    """Return the operands of a decoder's first convolution."""
    affine = [torch.rand(3, 1, channels) for channels in (64, 16)]
    weight, bias = torch.randn(32, 80, 3, 3) / 27, torch.randn(32)
    sources = ([image(64, 16), image(16, 32)], affine, [True, True], [True, False])
    return (*sources, weight, bias, 1, 1, None, None, None, False, True)


def shortcut(backward: bool) -> tuple[Any, ...]:
    """Return the operands of an encoder's normalised 1x1 convolution."""
    source = ([image(32, 32)], [torch.rand(1, 1, 32)], [False], [False])
    weight, (bias, gamma, beta) = [torch.randn(64, 32, 1, 1) / 6], torch.randn(3, 1, 64)
    branch = (weight, bias, 2, [1], gamma)
    if not backward:
        return (*source, *branch, beta, [1e-5], None, None)
    mean, variance = torch.randn(1, 64), torch.rand(1, 64)
    return (image(64, 16), *source, *branch, [1e-5], mean, variance, True, True, True)


OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "conv": (conv, decoder_convolution),
    "conv_norm_sum": (conv_norm_sum, lambda: shortcut(backward=False)),
    "conv_norm_sum_backward": (conv_norm_sum_backward, lambda: shortcut(backward=True)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_repeated_launches_compute_the_same(architecture: int, name: str) -> None:
    implementation, operands = OPERATIONS[name]
    operation = Prepared(implementation)
    operation(*operands())
    given = operands()
    with mock.patch.object(prepared.Plan, "replay", autospec=True, side_effect=prepared.Plan.replay) as replay:
        found = operation(*given)
    assert replay.call_count == 1
    expected = implementation(*given)
    compared = list(zip(tensors(found), tensors(expected), strict=True))
    assert len(compared) >= 3
    for value, same in compared:
        assert torch.equal(value, same)


def tensors(results: Any) -> list[Tensor]:
    """Return the tensors in results that are not empty."""
    if isinstance(results, Tensor):
        return [results] if results.numel() else []
    return [x for result in results for x in tensors(result)]
