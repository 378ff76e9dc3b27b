"""Launchers of the fused convolution's gradient, with the schema of ``fastresunet::conv_backward``."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .config import Config, arithmetic, choose
from .input_gradient import input_gradient_kernel
from .output_gradient import output_gradient_kernel
from .supported import check_supported
from .weight_gradient import weight_gradient_kernel
from .weights import forward_weight_adjoint, input_gradient_weight

# Programs that fill a large GPU a few times over; the weight gradient splits its pixels until it has as many.
_PROGRAMS = 512


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
    check_supported(data, upsample, pool, grad)
    zoom = 2 if upsample[0] else 1
    height, width = ((zoom * size - 1) // stride + 1 for size in data[0].shape[2:])
    raw, grad_gate, grad_gate_scale, grad_bias = output_gradient(
        grad, grad_mean, grad_m2, output, mean, kept, gate, gate_scale, (height, width) if pool else None
    )
    grad_data, grad_affine, grad_weights = [], [], []
    sections = weight.split([x.shape[1] for x in data], dim=1)
    for x, vectors, positive, up, section in zip(data, affine, relu, upsample, sections, strict=True):
        if needs_sources:
            grad_x, grad_vectors = input_gradient(raw, x, vectors, positive, up, section, stride, dilation, config)
        else:
            grad_x, grad_vectors = x.new_empty(0), vectors.new_empty(0)
        grad_data.append(grad_x)
        grad_affine.append(grad_vectors)
        if needs_weight:
            kernel_size = weight.shape[2]
            grad_weights.append(weight_gradient(raw, x, vectors, positive, up, kernel_size, stride, dilation, config))
    return (
        raw if has_residual else weight.new_empty(0),
        grad_gate,
        grad_gate_scale,
        grad_data,
        grad_affine,
        torch.cat(grad_weights, dim=1).to(weight.dtype) if needs_weight else weight.new_empty(0),
        grad_bias.to(weight.dtype) if needs_weight else weight.new_empty(0),
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
    """Return the gradients of the raw convolution result, the gate, the gate's scale and the bias (in float32).

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
    result = torch.empty(
        (samples, channels, height, width), dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last
    )
    if pooled_from and (height % 2 or width % 2):
        result.zero_()
    accumulation = torch.promote_types(grad.dtype, torch.float32)
    config = choose(rows * columns, channels, channels)
    block = min(64, config.block_out)
    tiles = triton.cdiv(rows * columns, config.block_pixels)
    bias_sums = grad.new_empty((samples, tiles, channels), dtype=accumulation)
    scale_sums = torch.empty_like(bias_sums) if gate_scale is not None else bias_sums.new_empty(0)
    grad_gate = torch.empty_like(grad) if gate is not None else grad.new_empty(0)
    output_gradient_kernel[(samples * tiles, triton.cdiv(channels, block))](
        grad,
        grad_mean,
        grad_m2,
        output,
        mean,
        kept,
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
        HAS_STATISTICS=grad_mean is not None,
        HAS_GATE=gate is not None,
        HAS_GATE_SCALE=gate_scale is not None,
        POOL=pooled_from is not None,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_CHANNELS=block,
        ACCUMULATE=arithmetic(grad.dtype)["ACCUMULATE"],
        num_warps=config.warps,
    )
    grad_gate_scale = scale_sums.sum(dim=1) if gate_scale is not None else scale_sums
    return result, grad_gate, grad_gate_scale, bias_sums.sum(dim=(0, 1))


def input_gradient(
    grad: Tensor,
    data: Tensor,
    affine: Tensor,
    relu: bool,
    upsample: bool,
    weight: Tensor,
    stride: int,
    dilation: int,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a source's data and of its affine (empty if there is none).

    Args:
        grad: gradient of the raw convolution result, channels-last.
        data: the source (N, C, H, W), channels-last.
        affine: (3, N, C), or empty.
        relu: whether the source was read through a ReLU.
        upsample: whether it was read at twice its resolution.
        weight: the source's slice (C_out, C, k, k) of the weight.
        stride: of the convolution.
        dilation: of the convolution.
        config: tile, or ``None`` for the rule's.
    """
    samples, channels, height, width = data.shape
    by_tap = input_gradient_weight(weight, stride, upsample)
    taps = int(by_tap.shape[1] ** 0.5)
    parity = by_tap.shape[0] == 4
    rows, columns = ((height + 1) // 2, (width + 1) // 2) if parity else (height, width)
    if upsample:
        # 4x4 taps from 2 row - 1, or 2x2 taps from 2 row.
        read_stride, offset = 2, 1 - taps // 2
    elif parity:
        read_stride, offset = 1, 0
    else:
        read_stride, offset = 1, -dilation * (taps // 2)
    if config is None:
        config = choose(rows * columns, grad.shape[1], channels)
    tiles = triton.cdiv(rows * columns, config.block_pixels)
    parts = tiles * (4 if parity else 1)
    has_affine = affine.numel() > 0
    result = torch.empty_like(data)
    sums = affine.new_empty((2, samples, parts, channels) if has_affine else (2, 0))
    input_gradient_kernel[(samples * parts, triton.cdiv(channels, config.block_out))](
        grad,
        by_tap,
        data,
        affine,
        result,
        sums[0],
        sums[1],
        samples,
        rows,
        columns,
        tiles,
        *grad.shape[2:],
        grad.shape[1],
        height,
        width,
        channels,
        read_stride,
        offset,
        1 if parity else dilation,
        TAPS=taps,
        PARITY=parity,
        AFFINE=has_affine,
        RELU=relu,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        num_warps=config.warps,
        num_stages=config.stages,
        **arithmetic(grad.dtype),
    )
    if not has_affine:
        return result, affine.new_empty(0)
    shift, scale = sums.sum(dim=2)
    return result, torch.stack([-affine[1] * shift, scale, shift])


def weight_gradient(
    grad: Tensor,
    data: Tensor,
    affine: Tensor,
    relu: bool,
    upsample: bool,
    kernel_size: int,
    stride: int,
    dilation: int,
    config: Config | None = None,
) -> Tensor:
    """Return the gradient (C_out, C, k, k) of a source's slice of the weight, in float32 at least.

    Args:
        grad: gradient of the raw convolution result, channels-last.
        data: the source (N, C, H, W), channels-last.
        affine: (3, N, C), or empty.
        relu: whether the source was read through a ReLU.
        upsample: whether it was read at twice its resolution.
        kernel_size: k.
        stride: of the convolution.
        dilation: of the convolution.
        config: tile, or ``None`` for the rule's.
    """
    samples, channels, height, width = data.shape
    out_channels, out_height, out_width = grad.shape[1:]
    taps = 2 if upsample and kernel_size == 3 else kernel_size
    sets = 4 if upsample else 1
    rows, columns = (out_height // 2, out_width // 2) if upsample else (out_height, out_width)
    if config is None:
        config = choose(rows * columns, channels, out_channels)
    tiles = triton.cdiv(rows * columns, config.block_pixels)
    blocks = triton.cdiv(channels, config.block_in) * triton.cdiv(out_channels, config.block_out)
    splits = max(1, min(samples * tiles, _PROGRAMS // (sets * taps * taps * blocks)))
    accumulation = torch.promote_types(grad.dtype, torch.float32)
    slabs = grad.new_empty((splits, sets * taps * taps, channels, out_channels), dtype=accumulation)
    weight_gradient_kernel[(sets * taps * taps, blocks, splits)](
        grad,
        data,
        affine,
        slabs,
        samples,
        rows,
        columns,
        tiles,
        splits,
        out_width,
        out_height * out_width,
        out_channels,
        height,
        width,
        channels,
        stride,
        dilation,
        TAPS=taps,
        UPSAMPLE=upsample,
        AFFINE=affine.numel() > 0,
        RELU=relu,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        num_warps=config.warps,
        num_stages=config.stages,
        **arithmetic(grad.dtype),
    )
    return forward_weight_adjoint(slabs.sum(dim=0), kernel_size, upsample)
