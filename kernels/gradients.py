"""Launcher of the fused convolution's gradient, with the schema of ``fastresunet::conv_backward``."""

from __future__ import annotations

from torch import Tensor, channels_last

from .config import Config
from .input_gradients import input_gradients
from .output_gradient import OutputGradient, write_output_gradient
from .pack import pack_weight
from .supported import check_supported
from .weight_gradients import weight_gradient


def conv_backward(
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
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the gradients of residual, gate, gate scale, data and affine of each source, weight and bias.

    A gradient that is not needed is empty.
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
    if needs_sources:
        packed = pack_weight(weight.contiguous(), [x.shape[1] for x in data], upsample, grad.dtype, transposed=True)
        gradients = input_gradients(
            raw, data, affine, relu, upsample, packed, weight.shape[2], stride, [dilation], config
        )
        grad_data, grad_affine = ([pair[k] for pair in gradients] for k in (0, 1))
    grad_weight = grad_bias = nothing
    if needs_weight:
        grad_weight, grad_bias = weight_gradient(raw, data, affine, relu, upsample, weight, stride, dilation, config)
    return grad_residual, grad_gate, grad_gate_scale, grad_data, grad_affine, grad_weight, grad_bias
