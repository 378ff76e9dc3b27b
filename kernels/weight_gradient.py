"""Gradient of the weight: activated source times output gradient, summed over pixels.

A program computes one tap's BLOCK_IN x BLOCK_OUT matrix over every ``splits``-th block of pixels of all samples, and
writes it to a slab of its own; the slabs are summed afterwards, so that the result does not depend on scheduling.
For an upsampled source there is a set of 2x2 taps for each parity of the output pixel, see ``forward``.
"""

import triton
import triton.language as tl

from .operand import load_activated, load_affine, operand


@triton.jit
def weight_gradient_kernel(
    grad_ptr,
    data_ptr,
    affine_ptr,
    slab_ptr,
    samples,
    rows,
    columns,
    tiles,
    splits,
    out_columns,
    out_pixels,
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
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute one tile of one slab (sets of taps * taps, channels, out_channels)."""
    dtype = grad_ptr.dtype.element_ty
    set_and_tap = tl.program_id(0)
    quarter = set_and_tap // (TAPS * TAPS)
    tap = set_and_tap % (TAPS * TAPS)
    out_blocks = tl.cdiv(out_channels, BLOCK_OUT)
    channel = (tl.program_id(1) // out_blocks) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out_channel = (tl.program_id(1) % out_blocks) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    split = tl.program_id(2)

    accumulator = tl.zeros((BLOCK_IN, BLOCK_OUT), dtype=ACCUMULATE)
    for item in range(split, samples * tiles, splits):
        sample = item // tiles
        pixel = (item % tiles) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
        wanted = pixel < rows * columns
        small_row, small_column = pixel // columns, pixel % columns
        row, column = small_row, small_column
        if UPSAMPLE:
            row = small_row * 2 + quarter // 2
            column = small_column * 2 + quarter % 2
            first_row = small_row + (quarter // 2 - 1) * (TAPS - 1)
            first_column = small_column + (quarter % 2 - 1) * (TAPS - 1)
        else:
            first_row = row * stride - dilation * (TAPS // 2)
            first_column = column * stride - dilation * (TAPS // 2)
        center, scale, shift = 0.0, 0.0, 0.0
        if AFFINE:
            center, scale, shift = load_affine(affine_ptr, sample, samples, channel, channels)
        h = load_activated(
            data_ptr + sample.to(tl.int64) * height * width * channels,
            first_row + (tap // TAPS) * dilation,
            first_column + (tap % TAPS) * dilation,
            wanted,
            channel,
            height,
            width,
            channels,
            center,
            scale,
            shift,
            AFFINE,
            RELU,
            ACCUMULATE,
        )
        position = tl.where(wanted, row * out_columns + column, 0)
        grad = tl.load(
            grad_ptr
            + sample.to(tl.int64) * out_pixels * out_channels
            + position[:, None] * out_channels
            + out_channel[None, :],
            mask=wanted[:, None] & (out_channel < out_channels)[None, :],
            other=0.0,
        )
        accumulator = tl.dot(
            tl.trans(operand(h, dtype, WIDEN)),
            operand(grad, dtype, WIDEN),
            accumulator,
            input_precision=PRECISION,
            out_dtype=ACCUMULATE,
        )
    slab = (split * tl.num_programs(0) + set_and_tap).to(tl.int64) * channels * out_channels
    tl.store(
        slab_ptr + slab + channel[:, None] * out_channels + out_channel[None, :],
        accumulator,
        mask=(channel < channels)[:, None] & (out_channel < out_channels)[None, :],
    )
