"""Gradient of a source: convolution of the output's gradient, then back through ReLU and affine as it is written.

With ``z = (u - center) * scale + shift`` and ``dz = dh [z > 0]`` a program writes ``du = dz * scale`` and, for its
tile, ``sum dz`` and ``sum dz (u - center)``: the gradients of shift and scale.

The gradient of a 1x1 convolution beside the first one, which read the source with a scale alone, is computed by a
product of its own and added; so is a gradient that reached the source otherwise.

A program computes BLOCK_PIXELS windows of the source by BLOCK_OUT of its channels. MODE, see ``implicit_gemm``, says
how they meet the output's gradient: windows of a convolution of stride 2 are the four parities of (2 i + p, 2 j + q).
"""

import triton
import triton.language as tl

from .implicit_gemm import accumulate, zero_accumulators
from .operand import load_affine
from .tile import load_block, store_block
from .window import select, window_start


@triton.jit
def first_gradient_pixel(index, start, dilation, MODE: tl.constexpr, TAPS: tl.constexpr):
    """Return the row (or column) of the output's gradient that is input 0 of the windows."""
    if MODE == "spread":
        first = index * 2 - (TAPS // 2 - 1)
    elif MODE == "strided":
        first = index
    else:
        first = start - dilation * (TAPS // 2)
    return first


@triton.jit
def input_gradient_kernel(
    grad_ptr,
    output_ptr,
    statistics_ptr,
    winner_ptr,
    weight_ptr,
    data_ptr,
    affine_ptr,
    added_ptr,
    side_grad_ptr,
    side_weight_ptr,
    side_scale_ptr,
    grad_data_out,
    shift_sum_out,
    scale_sum_out,
    side_sum_out,
    samples,
    rows,
    columns,
    tiles,
    grad_height,
    grad_width,
    grad_channels,
    height,
    width,
    channels,
    first_input,
    inputs,
    DILATIONS: tl.constexpr,
    MODE: tl.constexpr,
    TAPS: tl.constexpr,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    RAW: tl.constexpr,
    WINDOW_ROWS: tl.constexpr,
    WINDOW_COLUMNS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute a tile of the gradient of a source (height, width, channels), in ``rows x columns`` windows.

    The output's gradient is read as ``output_gradient`` says. The weight is packed (slots, outputs, inputs); the
    source's channels are its inputs from ``first_input`` on. The output's gradient may have several branches, one for
    each of DILATIONS, all of which have read this source; branch k has the outputs from k grad_channels on.
    """
    sample = tl.program_id(0) // tiles
    index = (tl.program_id(0) % tiles) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    wanted = index < rows * columns
    row_index, column_index = index // columns, index % columns
    channel = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    grads = zero_accumulators(WINDOW_ROWS * WINDOW_COLUMNS, BLOCK_PIXELS, BLOCK_OUT, ACCUMULATE)
    grad_size = tl.cast(samples, tl.int64) * grad_height * grad_width * grad_channels
    for branch in range(len(DILATIONS)):
        dilation = select(branch, DILATIONS, tl.int32)
        row = window_start(row_index, dilation, WINDOW_ROWS)
        column = window_start(column_index, dilation, WINDOW_COLUMNS)
        grads = accumulate(
            grads,
            (grad_ptr if output_ptr is None else output_ptr) + branch * grad_size,
            None if output_ptr is None else grad_ptr,
            winner_ptr,
            statistics_ptr,
            weight_ptr + branch * grad_channels * inputs + first_input,
            sample,
            samples,
            first_gradient_pixel(row_index, row, dilation, MODE, TAPS),
            first_gradient_pixel(column_index, column, dilation, MODE, TAPS),
            wanted,
            channel,
            grad_height,
            grad_width,
            grad_channels,
            channels,
            len(DILATIONS) * grad_channels * inputs,
            inputs,
            dilation,
            MODE,
            TAPS,
            1,
            False,
            WINDOW_ROWS,
            WINDOW_COLUMNS,
            0,
            False,
            RAW,
            BLOCK_IN,
            EXACT,
            ACCUMULATE,
            PRECISION,
            PACKED,
            WIDEN,
        )
    if side_grad_ptr is not None:
        side = accumulate(
            zero_accumulators(WINDOW_ROWS * WINDOW_COLUMNS, BLOCK_PIXELS, BLOCK_OUT, ACCUMULATE),
            side_grad_ptr,
            None,
            None,
            None,
            side_weight_ptr + first_input,
            sample,
            samples,
            first_gradient_pixel(row_index, window_start(row_index, 1, WINDOW_ROWS), 1, MODE, TAPS // 2),
            first_gradient_pixel(column_index, window_start(column_index, 1, WINDOW_COLUMNS), 1, MODE, TAPS // 2),
            wanted,
            channel,
            grad_height,
            grad_width,
            grad_channels,
            channels,
            0,
            inputs,
            1,
            MODE,
            TAPS // 2,
            1,
            False,
            WINDOW_ROWS,
            WINDOW_COLUMNS,
            0,
            False,
            True,
            BLOCK_IN,
            EXACT,
            ACCUMULATE,
            PRECISION,
            PACKED,
            WIDEN,
        )
    # Windows of more than one pixel are of a single branch.
    dilation: tl.constexpr = DILATIONS[0]
    row = window_start(row_index, dilation, WINDOW_ROWS)
    column = window_start(column_index, dilation, WINDOW_COLUMNS)
    base = sample.to(tl.int64) * height * width * channels
    center, scale, shift = 0.0, 1.0, 0.0
    if AFFINE > 0:
        center, scale, shift = load_affine(affine_ptr, sample, samples, channel, channels, AFFINE)
        center, scale, shift = center[None, :], scale[None, :], shift[None, :]
    shift_total = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE)
    scale_total = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE)
    side_total = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE)
    side_scale = 1.0
    if side_scale_ptr is not None:
        side_scale = load_affine(side_scale_ptr, sample, samples, channel, channels, 1)[1][None, :]
    for p in tl.static_range(WINDOW_ROWS):
        for q in tl.static_range(WINDOW_COLUMNS):
            pixel_row = row + p * dilation
            pixel_column = column + q * dilation
            inside = wanted & (pixel_row < height) & (pixel_column < width)
            mask = inside[:, None] & (channel < channels)[None, :]
            offset = base + (pixel_row * width + pixel_column)[:, None] * channels + channel[None, :]
            grad = grads[p * WINDOW_COLUMNS + q]
            if data_ptr is not None:
                u = load_block(data_ptr + offset, mask, EXACT).to(ACCUMULATE)
            if AFFINE > 0 or RELU:
                deviation = u - center
                if RELU:
                    # Through NaN the gradient passes, as in PyTorch.
                    grad = tl.where(deviation * scale + shift <= 0, 0.0, grad)
                if AFFINE > 0:
                    if not EXACT:
                        grad = tl.where(mask, grad, 0.0)
                    shift_total += grad
                    scale_total += grad * deviation
                    grad *= scale
            if side_grad_ptr is not None:
                beside = side[p * WINDOW_COLUMNS + q]
                if side_sum_out is not None:
                    side_total += beside * u if EXACT else tl.where(mask, beside * u, 0.0)
                grad += beside * side_scale
            if added_ptr is not None:
                grad += load_block(added_ptr + offset, mask, EXACT).to(ACCUMULATE)
            store_block(grad_data_out + offset, grad.to(grad_data_out.dtype.element_ty), mask, EXACT)
    if AFFINE > 0:
        statistic = tl.program_id(0) * channels + channel
        tl.store(shift_sum_out + statistic, tl.sum(shift_total, axis=0), mask=channel < channels)
        tl.store(scale_sum_out + statistic, tl.sum(scale_total, axis=0), mask=channel < channels)
    if side_sum_out is not None:
        statistic = tl.program_id(0) * channels + channel
        tl.store(side_sum_out + statistic, tl.sum(side_total, axis=0), mask=channel < channels)
