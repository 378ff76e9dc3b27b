"""Gradient of the weight: activated source times output gradient, summed over pixels.

Every program sums a share of the windows of pixels and writes its products to a slab of its own; the slabs are summed
afterwards, see ``finish``, so that the result does not depend on scheduling. Two designs:

* all taps together, for thin layers: the products of all taps stay in registers; each input of a window is read and
  activated once, each pixel of the output's gradient is read once;
* one tap a program, for wide layers, whose products for one tap already fill the registers.

For an upsampled source there is a set of 2x2 taps for each parity of the output pixel, as in ``forward``.
"""

import triton
import triton.language as tl

from .implicit_gemm import extent, slot, tap, zero_accumulators
from .operand import at_sample, lies_within, load_activated, load_input, load_read_affine, load_statistics, operand
from .tile import load_block
from .window import first_input_pixel, window_start


@triton.jit
def load_gradient(
    grad_ptr,
    output_ptr,
    winner_ptr,
    statistics_ptr,
    sample,
    samples,
    row,
    column,
    wanted,
    channel,
    height,
    width,
    channels,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Load pixels (BLOCK_PIXELS, BLOCK_OUT) of the output's gradient, put together as ``output_gradient`` says."""
    grad_ptr, output_ptr, winner_ptr = at_sample(grad_ptr, output_ptr, winner_ptr, sample, height, width, channels)
    if output_ptr is None and winner_ptr is None:
        inside = wanted & (row < height) & (column < width)
        offset = (row * width + column)[:, None] * channels + channel[None, :]
        grad = load_block(grad_ptr + offset, inside[:, None] & (channel < channels)[None, :], EXACT)
        grad = operand(grad, grad_ptr.dtype.element_ty, WIDEN)
    else:
        center, scale, shift = 0.0, 0.0, 0.0
        if output_ptr is not None:
            center, scale, shift = load_statistics(statistics_ptr, sample, samples, channel, channels, height * width)
        grad = load_input(
            grad_ptr if output_ptr is None else output_ptr,
            None if output_ptr is None else grad_ptr,
            winner_ptr,
            (row * width + column)[:, None] * channels + channel[None, :],
            row,
            column,
            0,
            0,
            wanted,
            height,
            width,
            channel,
            channels,
            center,
            scale,
            shift,
            0,
            False,
            EXACT,
            ACCUMULATE,
            False,
            WIDEN,
        )
    return grad


@triton.jit
def store_bias_sum(bias_sum_out, total, part, channel, channels):
    """Store the sums (channels,) of a program's gradients, one part of the bias gradient."""
    tl.store(bias_sum_out + part * channels + channel, total, mask=channel < channels)


@triton.jit
def all_taps_weight_gradient_kernel(
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
    WINDOW_ROWS: tl.constexpr,
    WINDOW_COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute BLOCK_IN x BLOCK_OUT of every tap of one slab (slots, channels, out_channels)."""
    PARITIES: tl.constexpr = UPSAMPLE and TAPS == 2
    SLOTS: tl.constexpr = 16 if PARITIES else TAPS * TAPS
    READ_STEP: tl.constexpr = 0 if UPSAMPLE and TAPS == 1 else STEP
    dtype: tl.constexpr = grad_ptr.dtype.element_ty
    split = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out_channel = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    products = zero_accumulators(SLOTS, BLOCK_IN, BLOCK_OUT, ACCUMULATE)
    bias_total = tl.zeros((BLOCK_OUT,), dtype=ACCUMULATE)
    for item in range(split, samples * tiles, splits):
        sample = item // tiles
        index = (item % tiles) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
        wanted = index < rows * columns
        row_index, column_index = index // columns, index % columns
        row = window_start(row_index, dilation, WINDOW_ROWS)
        column = window_start(column_index, dilation, WINDOW_COLUMNS)
        first_row = first_input_pixel(row_index, row, stride, dilation, TAPS, UPSAMPLE)
        first_column = first_input_pixel(column_index, column, stride, dilation, TAPS, UPSAMPLE)
        spacing = 1 if UPSAMPLE else dilation
        origin = (first_row * width + first_column)[:, None] * channels + channel[None, :]
        center, scale, shift = 0.0, 0.0, 0.0
        if AFFINE > 0:
            center, scale, shift = load_read_affine(
                affine_ptr, sample, samples, channel, channels, AFFINE, dtype, PACKED
            )
        data_base = data_ptr + sample.to(tl.int64) * height * width * channels
        grads = ()
        for p in tl.static_range(WINDOW_ROWS):
            for q in tl.static_range(WINDOW_COLUMNS):
                grad = load_gradient(
                    grad_ptr,
                    output_ptr,
                    winner_ptr,
                    statistics_ptr,
                    sample,
                    samples,
                    row + p * spacing,
                    column + q * spacing,
                    wanted,
                    out_channel,
                    out_height,
                    out_width,
                    out_channels,
                    EXACT,
                    ACCUMULATE,
                    WIDEN,
                )
                grads += (grad,)
                if bias_sum_out is not None:
                    if tl.program_id(1) == 0:
                        bias_total += tl.sum(grad.to(ACCUMULATE), axis=0)
        for y in tl.static_range(extent("forward", TAPS, READ_STEP, WINDOW_ROWS)):
            for x in tl.static_range(extent("forward", TAPS, READ_STEP, WINDOW_COLUMNS)):
                h = load_activated(
                    data_base + (y * width + x) * dilation * channels,
                    None,
                    origin,
                    lies_within(first_row + y * dilation, height)
                    & lies_within(first_column + x * dilation, width)
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
                h = tl.trans(h)
                for p in tl.static_range(WINDOW_ROWS):
                    for q in tl.static_range(WINDOW_COLUMNS):
                        if (
                            tap("forward", TAPS, READ_STEP, p, y) >= 0
                            and tap("forward", TAPS, READ_STEP, p, y) < TAPS
                            and tap("forward", TAPS, READ_STEP, q, x) >= 0
                            and tap("forward", TAPS, READ_STEP, q, x) < TAPS
                        ):
                            products = add_product(
                                products,
                                h,
                                grads[p * WINDOW_COLUMNS + q],
                                slot(
                                    "forward",
                                    TAPS,
                                    PARITIES,
                                    p,
                                    q,
                                    tap("forward", TAPS, READ_STEP, p, y),
                                    tap("forward", TAPS, READ_STEP, q, x),
                                ),
                                ACCUMULATE,
                                PRECISION,
                            )
    for k in tl.static_range(SLOTS):
        slab = (split * SLOTS + k).to(tl.int64) * channels * out_channels
        tl.store(
            slab_out + slab + channel[:, None] * out_channels + out_channel[None, :],
            products[k],
            mask=(channel < channels)[:, None] & (out_channel < out_channels)[None, :],
        )
    if bias_sum_out is not None:
        if tl.program_id(1) == 0:
            store_bias_sum(bias_sum_out, bias_total, split, out_channel, out_channels)


@triton.jit
def add_product(products, a, b, SLOT: tl.constexpr, ACCUMULATE: tl.constexpr, PRECISION: tl.constexpr):
    """Return the tuple of products with ``a b`` added to one of them."""
    updated = ()
    for k in tl.static_range(len(products)):
        if k == SLOT:
            updated += (tl.dot(a, b, products[k], input_precision=PRECISION, out_dtype=ACCUMULATE),)
        else:
            updated += (products[k],)
    return updated


@triton.jit
def one_tap_weight_gradient_kernel(
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
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute BLOCK_IN x BLOCK_OUT of one slot of one slab; for an upsampled 1x1 weight each parity has a slot."""
    dtype: tl.constexpr = grad_ptr.dtype.element_ty
    split = tl.program_id(0)
    slot_index = tl.program_id(2)
    quarter = slot_index // (TAPS * TAPS)
    tap_index = slot_index % (TAPS * TAPS)
    out_blocks = tl.cdiv(out_channels, BLOCK_OUT)
    channel = (tl.program_id(1) // out_blocks) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out_channel = (tl.program_id(1) % out_blocks) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    product = tl.zeros((BLOCK_IN, BLOCK_OUT), dtype=ACCUMULATE)
    bias_total = tl.zeros((BLOCK_OUT,), dtype=ACCUMULATE)
    sums_bias = (tap_index == 0) & (tl.program_id(1) < out_blocks)
    for item in range(split, samples * tiles, splits):
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
    slab = (split * tl.num_programs(2) + slot_index).to(tl.int64) * channels * out_channels
    tl.store(
        slab_out + slab + channel[:, None] * out_channels + out_channel[None, :],
        product,
        mask=(channel < channels)[:, None] & (out_channel < out_channels)[None, :],
    )
    if bias_sum_out is not None:
        if sums_bias:
            quarters = tl.num_programs(2) // (TAPS * TAPS)
            store_bias_sum(bias_sum_out, bias_total, split * quarters + quarter, out_channel, out_channels)
