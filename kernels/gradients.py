"""Launchers of the fused convolution's gradient, with the schema of ``fastresunet::conv_backward``."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import Config, accumulation
from .convolution import empty_image
from .finish import sum_parts
from .input_gradients import input_gradients
from .launch import launch
from .output_gradient import output_gradient_kernel
from .pack import pack_weight
from .rounding import cdiv, next_power_of_2
from .supported import check_supported
from .weight_gradients import weight_gradient

_BLOCK_PIXELS = 64


def conv_backward(
    grad: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    output: Tensor,
    mean: Tensor,
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
    raw, grad_gate, grad_gate_scale, bias_sums = output_gradient(
        grad, grad_mean, grad_m2, output, mean, kept, gate, gate_scale, (height, width) if pool else None
    )
    nothing = weight.new_empty(0)
    grad_data, grad_affine = [x.new_empty(0) for x in data], [v.new_empty(0) for v in affine]
    if needs_sources:
        packed = pack_weight(weight.contiguous(), [x.shape[1] for x in data], upsample, grad.dtype, transposed=True)
        gradients = input_gradients(
            raw[None], data, affine, relu, upsample, packed, weight.shape[2], stride, [dilation], config
        )
        grad_data, grad_affine = ([pair[k] for pair in gradients] for k in (0, 1))
    return (
        raw if has_residual else nothing,
        grad_gate,
        grad_gate_scale,
        grad_data,
        grad_affine,
        weight_gradient(raw, data, affine, relu, upsample, weight, stride, dilation, config)
        if needs_weight
        else nothing,
        sum_parts(bias_sums.flatten(0, 1)[None], weight.dtype)[0] if needs_weight else nothing,
    )


def output_gradient(
    grad: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    output: Tensor,
    mean: Tensor,
    kept: Tensor,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    pooled_from: tuple[int, int] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the raw convolution result, the gate, the gate's scale, and sums for that of the bias.

    Args:
        grad: gradient of what was written (N, C, H, W).
        grad_mean: gradient of its mean (N, C), together with ``grad_m2``.
        grad_m2: gradient of its M2 (N, C).
        output: what was written.
        mean: its mean.
        kept: pool positions, or the result before the gate.
        gate: factor of the result.
        gate_scale: (N, C), factor of the gate.
        pooled_from: rows and columns before the pooling, or ``None`` without one.
    """
    grad = grad.contiguous(memory_format=torch.channels_last)
    # Gradients of vectors are often slices of larger ones.
    grad_mean, grad_m2 = (None if vector is None else vector.contiguous() for vector in (grad_mean, grad_m2))
    samples, channels, rows, columns = grad.shape
    height, width = pooled_from or (rows, columns)
    result = empty_image(grad, channels, height, width, grad.dtype)
    if pooled_from and (height % 2 or width % 2):
        result.zero_()
    block = min(64, max(16, next_power_of_2(channels)))
    tiles = cdiv(rows * columns, _BLOCK_PIXELS)
    bias_sums = grad.new_empty((samples, tiles, channels), dtype=torch.promote_types(grad.dtype, torch.float32))
    scale_sums = torch.empty_like(bias_sums) if gate_scale is not None else None
    grad_gate = torch.empty_like(grad) if gate is not None else None
    launch(
        output_gradient_kernel,
        (samples * tiles, cdiv(channels, block)),
        grad,
        grad_mean,
        grad_m2,
        output if grad_mean is not None else None,
        mean if grad_mean is not None else None,
        kept if pooled_from or gate is not None else None,
        gate,
        gate_scale,
        result,
        grad_gate,
        bias_sums,
        scale_sums,
        rows,
        columns,
        tiles,
        height,
        width,
        channels,
        POOL=pooled_from is not None,
        BLOCK_PIXELS=_BLOCK_PIXELS,
        BLOCK_CHANNELS=block,
        EXACT=rows * columns % _BLOCK_PIXELS == 0 and channels % block == 0,
        ACCUMULATE=accumulation(grad.dtype),
    )
    nothing = grad.new_empty(0)
    return (
        result,
        nothing if grad_gate is None else grad_gate,
        nothing if scale_sums is None else sum_parts(scale_sums, scale_sums.dtype),
        bias_sums,
    )
