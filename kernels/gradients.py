"""Launcher of the fused convolution's gradient, with the schema of ``fastresunet::conv_backward``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, channels_last

from .config import Config
from .input_gradients import Side, input_gradients
from .output_gradient import OutputGradient, write_output_gradient
from .pack import pack_weight
from .supported import check_supported
from .weight_gradients import weight_gradient


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
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor, list[Tensor]]:
    """Return the gradients of residual, gate, gate scale, data and affine of each source, weight, bias, side affines.

    A gradient that is not needed is empty. ``statistics`` are the mean of what was written and the gradients of its M2
    and mean (3, N, C), where it had any. The gradients of data include ``added``, which reached the first source
    otherwise, and that of a second, 1x1 convolution of the same stride, which read the sources through ``side_affine``
    (scales alone) without ReLU and whose result has the gradient ``side_grad``.
    """
    zoom = 2 if upsample[0] else 1
    height, width = ((zoom * size - 1) // stride + 1 for size in data[0].shape[2:])
    check_supported(data, upsample, pool, stride, dilation, weight.shape[0] * height * width)
    nothing = weight.new_empty(0)
    grad_residual, grad_gate, grad_gate_scale = (grad.new_empty(0) for _ in range(3))
    grad = grad.contiguous(memory_format=channels_last)
    raw = OutputGradient(grad, (height, width), None if statistics is None else output, statistics)
    if gate is not None or has_residual or (pool and statistics is not None):
        raw, grad_gate, grad_gate_scale = write_output_gradient(raw, kept, gate, gate_scale)
        grad_residual = raw.grad if has_residual else grad_residual
    if pool:
        raw = OutputGradient(raw.grad, (height, width), winners=kept)
    grad_data, grad_affine = [x.new_empty(0) for x in data], [v.new_empty(0) for v in affine]
    grad_side: list[Tensor] = []
    if needs_sources:
        packed = pack_weight(weight.contiguous(), [x.shape[1] for x in data], upsample, grad.dtype, transposed=True)
        side = None
        if side_grad is not None and side_weight is not None and side_affine is not None:
            side = Side(side_grad, side_weight, side_affine)
        grad_data, grad_affine, grad_side = input_gradients(
            raw, data, affine, relu, upsample, packed, weight.shape[2], stride, [dilation], added, side, config
        )
    grad_weight = grad_bias = nothing
    if needs_weight:
        grad_weight, grad_bias = weight_gradient(raw, data, affine, relu, upsample, weight, stride, dilation, config)
    return grad_residual, grad_gate, grad_gate_scale, grad_data, grad_affine, grad_weight, grad_bias, grad_side


def conv_backward(
    *arguments: Any, config: Config | None = None
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the gradients of a convolution that is alone in reading its sources, see ``conv_gradients``."""
    gradients: Callable[..., Any] = conv_gradients
    return gradients(*arguments, config=config)[:7]
