"""Launcher of the fused convolution's gradient, with the schema of ``fastresunet::conv_backward``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, channels_last

from .config import Config
from .output_gradient import OutputGradient, write_output_gradient
from .source_gradients import Side, source_gradients
from .supported import check_supported


def conv_gradients(
    grad: Tensor,
    statistics: Tensor | None,
    output: Tensor,
    kept: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    stride: int,
    dilation: int,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    pool: bool,
    has_residual: bool,
    needs_sources: bool,
    needs_weight: bool,
    added: Tensor | None = None,
    side_grad: Tensor | None = None,
    side_weight: Tensor | None = None,
    side_affine: list[Tensor] | None = None,
    needs_side_weight: bool = False,
    packed: Tensor | None = None,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor, list[Tensor], Tensor]:
    """Return the gradients of residual, gate, gate scale, data and affine of each source, weight, bias, and the side's.

    The last two are those of ``side_affine`` and of ``side_weight``.
    A gradient that is not needed is empty. ``statistics`` are the mean of what was written and the gradients of its M2
    and mean (3, N, C), where it had any. The gradients of data include ``added``, which reached the first source
    otherwise, and that of a second, 1x1 convolution of the same stride, which read the sources through ``side_affine``
    (scales alone) without ReLU and whose result has the gradient ``side_grad``.
    ``packed`` is the weight from ``pack_weights``, transposed, if it is there already.
    """
    zoom = 2 if upsample[0] else 1
    height, width = ((zoom * size - 1) // stride + 1 for size in data[0].shape[2:])
    check_supported(data, upsample, pool, stride, dilation, weight.shape[0] * height * width)
    grad_residual, grad_gate, grad_gate_scale = (grad.new_empty(0) for _ in range(3))
    grad = grad.contiguous(memory_format=channels_last)
    raw = OutputGradient(grad, (height, width), None if statistics is None else output, statistics)
    if gate is not None or has_residual or (pool and statistics is not None):
        raw, grad_gate, grad_gate_scale = write_output_gradient(raw, kept, gate, gate_scale)
        grad_residual = raw.grad if has_residual else grad_residual
    if pool:
        raw = OutputGradient(raw.grad, (height, width), winners=kept)
    side = None
    if side_grad is not None and side_weight is not None and side_affine is not None:
        side = Side(side_grad, side_weight.contiguous(), side_affine, needs_side_weight)
    needs = (needs_sources, needs_weight)
    gradients = source_gradients(
        raw, data, affine, relu, upsample, [weight], stride, [dilation], *needs, added, side, packed, config
    )
    weights = (gradients.weight, gradients.bias)
    sides = (gradients.side_affine, gradients.side_weight)
    return grad_residual, grad_gate, grad_gate_scale, gradients.data, gradients.affine, *weights, *sides


def conv_backward(
    *arguments: Any, config: Config | None = None
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the gradients of a convolution that is alone in reading its sources, see ``conv_gradients``."""
    gradients: Callable[..., Any] = conv_gradients
    return gradients(*arguments, config=config)[:7]
