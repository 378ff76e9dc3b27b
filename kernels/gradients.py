"""Launchers of the fused convolution's gradient, with the schema of ``fastresunet::conv_backward``."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .choice import choose
from .config import Config, Layer, accumulation, arithmetic
from .convolution import empty_image, is_exact, source_arguments, windows
from .finish import finish_affine, finish_weight, sum_parts
from .input_gradient import input_gradient_kernel
from .launch import launch
from .output_gradient import output_gradient_kernel
from .pack import pack_weight
from .supported import check_supported
from .weight_gradient import all_taps_weight_gradient_kernel, one_tap_weight_gradient_kernel

# Programs that fill a large GPU once, and a few times over; the weight gradient splits its pixels until it has as many.
_FEWEST_PROGRAMS, _MOST_PROGRAMS = 128, 512
_SLAB_BYTES = 8 << 20
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
    block = min(64, max(16, triton.next_power_of_2(channels)))
    tiles = triton.cdiv(rows * columns, _BLOCK_PIXELS)
    bias_sums = grad.new_empty((samples, tiles, channels), dtype=torch.promote_types(grad.dtype, torch.float32))
    scale_sums = torch.empty_like(bias_sums) if gate_scale is not None else None
    grad_gate = torch.empty_like(grad) if gate is not None else None
    launch(
        output_gradient_kernel,
        (samples * tiles, triton.cdiv(channels, block)),
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


def input_gradients(
    grad: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    packed: Tensor,
    kernel_size: int,
    stride: int,
    dilation: list[int],
    config: Config | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return the gradients of data and affine (empty if there is none) of every source.

    Args:
        grad: gradients of the raw results of all branches (B, N, C_out, H, W), each channels-last; usually one branch.
        data: the sources (N, C, H, W), channels-last.
        affine: (3, N, C) or (1, N, C) of each, or empty.
        relu: whether each was read through a ReLU.
        upsample: whether each was read at twice its resolution.
        packed: the branches' weights, their outputs one after another, transposed; see ``pack_weight``.
        kernel_size: 1 or 3.
        stride: of the convolutions.
        dilation: of each branch.
        config: tile, or ``None`` for the chosen one.
    """
    results, first_input = [], 0
    for x, vectors, positive, up in zip(data, affine, relu, upsample, strict=True):
        results.append(
            _input_gradient(grad, x, vectors, positive, up, packed, first_input, kernel_size, stride, dilation, config)
        )
        first_input += x.shape[1]
    return results


def _input_gradient(
    grad: Tensor,
    data: Tensor,
    affine: Tensor,
    relu: bool,
    upsample: bool,
    packed: Tensor,
    first_input: int,
    kernel_size: int,
    stride: int,
    dilation: list[int],
    config: Config | None,
) -> tuple[Tensor, Tensor]:
    samples, channels, height, width = data.shape
    grad_channels = grad.shape[2]
    if config is None:
        config = choose(
            Layer(
                "input_gradient",
                grad.dtype,
                channels,
                grad_channels,
                kernel_size,
                stride,
                max(dilation),
                upsample,
                False,
                grad.shape[3] * grad.shape[4],
            ),
            grad.device,
        )
    taps, mode, window_rows, window_columns = kernel_size, "flipped", config.window_rows if len(dilation) == 1 else 1, 1
    if upsample:
        # Each pixel was read by 4x4 outputs through a 3x3 weight, by 2x2 through a 1x1 weight.
        taps, mode, window_rows = 4 if kernel_size == 3 else 2, "spread", 1
    elif stride == 2:
        mode, window_rows, window_columns = "strided", 2, 2
    rows, columns = (
        windows(height, window_rows, dilation[0], False),
        windows(width, window_columns, dilation[0], False),
    )
    tiles = triton.cdiv(rows * columns, config.block_pixels)
    has_affine = affine.numel() > 0
    result = torch.empty_like(data)
    sums = affine.new_empty((2, samples, tiles, channels)) if has_affine else (None, None)
    launch(
        input_gradient_kernel,
        (samples * tiles, triton.cdiv(channels, config.block_out)),
        grad,
        packed,
        data if has_affine or relu else None,
        affine if has_affine else None,
        result,
        sums[0],
        sums[1],
        samples,
        rows,
        columns,
        tiles,
        *grad.shape[3:],
        grad_channels,
        height,
        width,
        channels,
        first_input,
        packed.shape[2],
        multiply_adds=grad.numel() * channels * (4 if upsample and kernel_size == 3 else kernel_size**2),
        DILATIONS=tuple(dilation),
        MODE=mode,
        TAPS=taps,
        AFFINE=len(affine),
        RELU=relu,
        RAW=kernel_size == 1,
        WINDOW_ROWS=window_rows,
        WINDOW_COLUMNS=window_columns,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        EXACT=is_exact(data.shape, (window_rows, window_columns), dilation[0], config, [grad_channels]),
        num_warps=config.warps,
        num_stages=config.stages,
        **arithmetic(grad.dtype),
    )
    if not isinstance(sums, Tensor):
        return result, affine.new_empty(0)
    return result, finish_affine(sums, affine)


def weight_gradient(
    grad: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    stride: int,
    dilation: int,
    config: Config | None = None,
) -> Tensor:
    """Return the gradient of the weight, in its dtype.

    Args:
        grad: gradient of the raw convolution result, channels-last.
        data: the sources (N, C, H, W), channels-last.
        affine: (3, N, C) or (1, N, C) of each, or empty.
        relu: whether each was read through a ReLU.
        upsample: whether each was read at twice its resolution.
        weight: (outputs, inputs, k, k).
        stride: of the convolution.
        dilation: of the convolution.
        config: tile, or ``None`` for the chosen one.
    """
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    first_input = 0
    for source in zip(data, affine, relu, upsample, strict=True):
        slabs = _weight_gradient_slabs(grad, *source, weight.shape[2], stride, dilation, config)
        finish_weight(slabs, grad_weight, first_input, source[3] and weight.shape[2] == 3)
        first_input += source[0].shape[1]
    return grad_weight


def _weight_gradient_slabs(
    grad: Tensor,
    data: Tensor,
    affine: Tensor,
    relu: bool,
    upsample: bool,
    kernel_size: int,
    stride: int,
    dilation: int,
    config: Config | None,
) -> Tensor:
    samples, channels, height, width = data.shape
    out_channels, out_height, out_width = grad.shape[1:]
    if config is None:
        config = choose(
            Layer(
                "weight_gradient",
                grad.dtype,
                channels,
                out_channels,
                kernel_size,
                stride,
                dilation,
                upsample,
                False,
                out_height * out_width,
            ),
            grad.device,
        )
    taps = 2 if upsample and kernel_size == 3 else kernel_size
    slots = taps * taps * (4 if upsample and (taps == 2 or not config.all_taps) else 1)
    window_rows, window_columns = config.window_rows if config.all_taps else 1, 1
    if upsample and config.all_taps:
        window_rows = window_columns = 2
    rows, columns = (
        windows(out_height, window_rows, dilation, False),
        windows(out_width, window_columns, dilation, False),
    )
    if upsample:
        rows, columns = height, width
    tiles = triton.cdiv(rows * columns, config.block_pixels)
    blocks = triton.cdiv(channels, config.block_in) * triton.cdiv(out_channels, config.block_out)
    programs = blocks if config.all_taps else blocks * slots
    # Each program writes a slab; together they should stay small beside the features.
    slab_bytes = 4 * config.block_in * config.block_out * (slots if config.all_taps else 1)
    wanted = min(_MOST_PROGRAMS, max(_FEWEST_PROGRAMS, _SLAB_BYTES // slab_bytes))
    splits = max(1, min(samples * tiles, wanted // programs))
    accumulate = torch.promote_types(grad.dtype, torch.float32)
    slabs = grad.new_empty((splits, slots, channels, out_channels), dtype=accumulate)
    exact = is_exact(grad.shape, (window_rows, window_columns), dilation, config, [channels])
    grid = (splits, triton.cdiv(channels, config.block_in), triton.cdiv(out_channels, config.block_out))
    window = {"WINDOW_ROWS": window_rows, "WINDOW_COLUMNS": window_columns, "STEP": stride}
    launch(
        all_taps_weight_gradient_kernel if config.all_taps else one_tap_weight_gradient_kernel,
        grid if config.all_taps else (splits, blocks, slots),
        grad,
        *source_arguments(data, affine)[:2],
        slabs,
        samples,
        rows,
        columns,
        tiles,
        splits,
        out_height,
        out_width,
        out_channels,
        height,
        width,
        channels,
        stride,
        dilation,
        multiply_adds=grad.numel() * channels * taps**2,
        TAPS=taps,
        UPSAMPLE=upsample,
        AFFINE=len(affine),
        RELU=relu,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        EXACT=exact and rows * columns % config.block_pixels == 0,
        num_warps=config.warps,
        num_stages=config.stages,
        **(window if config.all_taps else {}),
        **arithmetic(grad.dtype),
    )
    return slabs
