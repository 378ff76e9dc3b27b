"""The weight gradient's design for wide layers: a program computes one tap, see ``weight_gradient``."""

import triton
import triton.language as tl

from .operand import lies_within, load_activated, load_read_affine
from .output_gradient_tile import load_gradient
from .window import first_input_pixel


@triton.jit
def write_one_tap(
    split,
    block,
    slot_index,
    slots,
    grad_ptr,
    output_ptr,
    statistics_ptr,
    winner_ptr,
    data_ptr,
    affine_ptr,
    slab_out,
    bias_sum_out,
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
    TAPS: tl.constexpr,
    UPSAMPLE: tl.constexpr,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    TILE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute BLOCK_IN x BLOCK_OUT of one slot of one slab; for an upsampled 1x1 weight each parity has a slot."""
    BLOCK_PIXELS: tl.constexpr = TILE[0]
    BLOCK_IN: tl.constexpr = TILE[1]
    BLOCK_OUT: tl.constexpr = TILE[2]
    EXACT: tl.constexpr = TILE[5]
    dtype: tl.constexpr = grad_ptr.dtype.element_ty
    quarter = slot_index // (TAPS * TAPS)
    tap_index = slot_index % (TAPS * TAPS)
    out_blocks = tl.cdiv(out_channels, BLOCK_OUT)
    channel = (block // out_blocks) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out_channel = (block % out_blocks) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    product = tl.zeros((BLOCK_IN, BLOCK_OUT), dtype=ACCUMULATE)
    bias_total = tl.zeros((BLOCK_OUT,), dtype=ACCUMULATE)
    sums_bias = (tap_index == 0) & (block < out_blocks)
    for item in tl.range(split, samples * tiles, splits, num_stages=TILE[6]):
        sample = item // tiles
        index = (item % tiles) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
        wanted = index < rows * columns
        row_index, column_index = index // columns, index % columns
        row, column = row_index, column_index
        first_row = first_input_pixel(row_index, row, stride, dilation, TAPS, UPSAMPLE)
        first_column = first_input_pixel(column_index, column, stride, dilation, TAPS, UPSAMPLE)
        if UPSAMPLE:
            row, column = row_index * 2 + quarter // 2, column_index * 2 + quarter % 2
            if TAPS == 2:
                first_row += quarter // 2
                first_column += quarter % 2
        origin = (first_row * width + first_column)[:, None] * channels + channel[None, :]
        center, scale, shift = 0.0, 0.0, 0.0
        if AFFINE > 0:
            center, scale, shift = load_read_affine(
                affine_ptr, sample, samples, channel, channels, AFFINE, dtype, PACKED
            )
        h = load_activated(
            data_ptr
            + sample.to(tl.int64) * height * width * channels
            + ((tap_index // TAPS) * width + (tap_index % TAPS)) * dilation * channels,
            None,
            origin,
            lies_within(first_row + (tap_index // TAPS) * dilation, height)
            & lies_within(first_column + (tap_index % TAPS) * dilation, width)
            & wanted,
            channel,
            channels,
            center,
            scale,
            shift,
            AFFINE,
            RELU,
            EXACT,
            ACCUMULATE,
            PACKED,
            WIDEN,
        )
        grad = load_gradient(
            grad_ptr,
            output_ptr,
            winner_ptr,
            statistics_ptr,
            sample,
            samples,
            row,
            column,
            wanted,
            out_channel,
            out_height,
            out_width,
            out_channels,
            EXACT,
            ACCUMULATE,
            WIDEN,
        )
        if bias_sum_out is not None:
            if sums_bias:
                bias_total += tl.sum(grad.to(ACCUMULATE), axis=0)
        product = tl.dot(tl.trans(h), grad, product, input_precision=PRECISION, out_dtype=ACCUMULATE)
    slab = (split * slots + slot_index).to(tl.int64) * channels * out_channels
    tl.store(
        slab_out + slab + channel[:, None] * out_channels + out_channel[None, :],
        product,
        mask=(channel < channels)[:, None] & (out_channel < out_channels)[None, :],
    )
    if bias_sum_out is not None:
        if sums_bias:
            quarters = slots // (TAPS * TAPS)
            part = split * quarters + quarter
            tl.store(bias_sum_out + part * out_channels + out_channel, bias_total, mask=out_channel < out_channels)
