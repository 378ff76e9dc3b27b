"""Squeeze-and-excitation (Hu et al. 2018) as arithmetic on the means of a feature map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastresunet.ops.backend import Backend, dispatching
from fastresunet.ops.library import differentiable, differentiable_once, register


def excitation(mean: Tensor, weight1: Tensor, weight2: Tensor, backend: Backend = "auto") -> Tensor:
    """Return ``sigmoid(W2 relu(W1 mean))``, the scale of every sample and channel.

    Args:
        mean: squeezed features (N, C), in float32 or float64.
        weight1: (hidden, C).
        weight2: (C, hidden).
        backend: what computes it.

    Raises:
        ValueError: shapes do not fit.
    """
    hidden, channels = weight1.shape
    if mean.ndim != 2 or mean.shape[1] != channels or weight2.shape != (channels, hidden):
        raise ValueError(
            f"expected means (N, C), weights (hidden, C) and (C, hidden), got {tuple(mean.shape)}, "
            f"{tuple(weight1.shape)} and {tuple(weight2.shape)}"
        )
    gate: Tensor = _excitation(mean.contiguous(), weight1.contiguous(), weight2.contiguous(), backend)
    return gate


def _shape(mean: Tensor, weight1: Tensor, weight2: Tensor, backend: str) -> Tensor:
    return mean.new_empty(mean.shape)


_excitation = register(
    "excitation(Tensor mean, Tensor weight1, Tensor weight2, str backend) -> Tensor", dispatching("excitation"), _shape
)


def _backward_shapes(
    grad: Tensor, gate: Tensor, mean: Tensor, weight1: Tensor, weight2: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return mean.new_empty(mean.shape), torch.empty_like(weight1), torch.empty_like(weight2)


_excitation_backward = register(
    "excitation_backward(Tensor grad, Tensor gate, Tensor mean, Tensor weight1, Tensor weight2, str backend) -> "
    "(Tensor mean, Tensor weight1, Tensor weight2)",
    dispatching("excitation_backward"),
    _backward_shapes,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, backend = inputs
    ctx.save_for_backward(output, *operands)
    ctx.backend = backend


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    gradients = _excitation_backward(grad.contiguous(), *ctx.saved_tensors, ctx.backend)
    return *gradients, None


differentiable("excitation", _setup_context, _backward)
differentiable_once("excitation_backward")
