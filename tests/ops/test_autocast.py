"""The registered operations themselves under autocast, called without the functions that check their operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastresunet import ops


def image(channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an image that requires its gradient."""
    return torch.randn(2, channels, 8, 6, dtype=dtype).requires_grad_()


def vectors(channels: int) -> list[Tensor]:
    """Return gamma, beta and no running statistics of a BatchNorm."""
    return [torch.ones(channels), torch.zeros(channels), torch.empty(0), torch.empty(0)]


def conv(x: Tensor) -> tuple[Any, ...]:
    weight, bias = torch.randn(8, 4, 3, 3), torch.randn(8)
    finish = (torch.randn(2, 8, 8, 6), torch.randn(2, 8, 8, 6), None, False)
    return [x], [torch.rand(3, 2, 4)], [True], [False], weight, bias, 1, 1, *finish, True, "torch"


def conv_norm_sum(x: Tensor) -> tuple[Any, ...]:
    gamma, beta, *_ = vectors(8)
    read = ([x], [torch.empty(0)], [False], [False])
    return *read, [torch.randn(8, 4, 3, 3)], [torch.randn(8)], 1, [2], [gamma], [beta], [1e-5], [], [], "torch"


def maps(*data: Tensor) -> tuple[list[Tensor], ...]:
    moments = [ops.channel_statistics(x.detach()) for x in data]
    return list(data), [m for m, _ in moments], [m2 for _, m2 in moments], [torch.empty(0) for _ in data]


def residual_block(x: Tensor) -> tuple[Any, ...]:
    parameters = [*vectors(4), torch.randn(8, 4, 3, 3), torch.randn(8), *vectors(8), torch.randn(8, 8, 3, 3)]
    parameters += [torch.randn(8), *vectors(8), torch.randn(8, 4, 1, 1), torch.randn(8)]
    return *maps(x), [False], [*parameters, torch.randn(2, 8), torch.randn(8, 2)], [1e-5] * 3, 1, "torch"


def attention_gate(x: Tensor) -> tuple[Any, ...]:
    skip = torch.randn(2, 3, 16, 12)
    parameters = [*vectors(3), torch.randn(4, 3, 3, 3), torch.randn(4), *vectors(4), torch.randn(4, 4, 3, 3)]
    parameters += [torch.randn(4), *vectors(4), torch.randn(4, 4, 3, 3), torch.randn(4)]
    return *maps(skip, x), [False, False], parameters, [1e-5] * 3, True, "torch"


ARGUMENTS = [conv, conv_norm_sum, residual_block, attention_gate]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda arguments: arguments.__name__)
def test_images_are_cast_to_the_dtype_of_autocast(
    arguments: Callable[[Tensor], tuple[Any, ...]], dtype: torch.dtype
) -> None:
    operation = getattr(torch.ops.fastresunet, arguments.__name__)
    x = image(4)
    given = arguments(x)
    with torch.autocast("cpu", dtype):
        output, mean, *_ = operation(*given)
    assert (output.dtype, mean.dtype) == (dtype, torch.float32)
    cast = [_cast(value, dtype) if is_image(value) else value for value in given]
    assert torch.equal(output, operation(*cast)[0])
    output.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda arguments: arguments.__name__)
def test_images_are_left_alone_without_autocast_and_in_float64(
    arguments: Callable[[Tensor], tuple[Any, ...]],
) -> None:
    operation = getattr(torch.ops.fastresunet, arguments.__name__)
    assert operation(*arguments(image(4)))[0].dtype == torch.float32
    given = [_cast(value, torch.float64) for value in arguments(image(4))]
    with torch.autocast("cpu", torch.bfloat16):
        assert operation(*given)[0].dtype == torch.float64


def is_image(value: Any) -> bool:
    """Return whether an argument is an image of 2 samples, or a list of them."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Tensor) and first.ndim == 4 and len(first) == 2


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_cast(one, dtype) for one in value]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.to(dtype).contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value.to(dtype)
