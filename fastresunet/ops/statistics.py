"""Differentiable per-sample, per-channel statistics of a feature map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastresunet.ops.library import differentiable, differentiable_once, register
from fastresunet.ops.source import accumulation_dtype
from fastresunet.ops.torch_backend import statistics as torch_backend


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and M2 = sum over pixels of (x - mean)^2 of every sample and channel.

    Args:
        x: features (N, C, H, W), floating point.

    Returns:
        Mean and M2, each (N, C), in float32 (float64 for float64 features).

    Raises:
        ValueError: ``x`` is not floating point or has not four dimensions.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x must be floating point (N, C, H, W), got {x.dtype} of shape {tuple(x.shape)}")
    mean, m2 = _channel_statistics(x.contiguous(memory_format=torch.channels_last))
    return mean, m2


def _vector_shapes(x: Tensor) -> tuple[Tensor, Tensor]:
    shape, dtype = x.shape[:2], accumulation_dtype(x.dtype)
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _gradient_shape(grad_mean: Tensor, grad_m2: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _gradient(grad_mean: Tensor, grad_m2: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    return torch_backend.statistics_gradient(torch.stack([mean, grad_m2, grad_mean]), x).to(x.dtype)


_channel_statistics = register(
    "channel_statistics(Tensor x) -> (Tensor mean, Tensor m2)", torch_backend.channel_statistics, _vector_shapes
)
_channel_statistics_backward = register(
    "channel_statistics_backward(Tensor grad_mean, Tensor grad_m2, Tensor x, Tensor mean) -> Tensor",
    _gradient,
    _gradient_shape,
)


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[0])


def _backward(ctx: Any, grad_mean: Tensor, grad_m2: Tensor) -> tuple[Tensor]:
    x, mean = ctx.saved_tensors
    return (_channel_statistics_backward(grad_mean, grad_m2, x, mean),)


differentiable("channel_statistics", _setup_context, _backward)
differentiable_once("channel_statistics_backward")
