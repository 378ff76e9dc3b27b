"""The weight gradient's design for thin layers: the products of all taps stay in registers, see ``weight_gradient``."""

import triton
import triton.language as tl

from .implicit_gemm import extent, slot, tap, zero_accumulators
from .operand import lies_within, load_activated, load_read_affine
from .output_gradient_tile import load_gradient
from .window import first_input_pixel, window_start


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
def write_all_taps(
    split,
    block_in,
    block_out,
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
    STEP: tl.constexpr,
    TILE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute BLOCK_IN x BLOCK_OUT of every tap of one slab (slots, channels, out_channels).

    TILE is that of ``write_input_gradient``.
    """
    BLOCK_PIXELS: tl.constexpr = TILE[0]
    BLOCK_IN: tl.constexpr = TILE[1]
    BLOCK_OUT: tl.constexpr = TILE[2]
    EXACT: tl.constexpr = TILE[5]
    WINDOW_ROWS: tl.constexpr = TILE[3]
    WINDOW_COLUMNS: tl.constexpr = TILE[4]
    PARITIES: tl.constexpr = UPSAMPLE and TAPS == 2
    SLOTS: tl.constexpr = 16 if PARITIES else TAPS * TAPS
    READ_STEP: tl.constexpr = 0 if UPSAMPLE and TAPS == 1 else STEP
    dtype: tl.constexpr = grad_ptr.dtype.element_ty
    channel = block_in * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out_channel = block_out * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    products = zero_accumulators(SLOTS, BLOCK_IN, BLOCK_OUT, ACCUMULATE)
    bias_total = tl.zeros((BLOCK_OUT,), dtype=ACCUMULATE)
    for item in tl.range(split, samples * tiles, splits, num_stages=TILE[6]):
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
                    if block_in == 0:
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
        if block_in == 0:
            tl.store(bias_sum_out + split * out_channels + out_channel, bias_total, mask=out_channel < out_channels)
