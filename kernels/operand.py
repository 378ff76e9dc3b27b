"""Reading operands inside kernels: affine and ReLU on the fly, and the implicit GEMM over taps and channels.

Features are channels-last: pixel (row, column) of a sample starts at ``(row * width + column) * channels``, and one
sample takes ``height * width * channels`` elements, counted from a 64-bit base.
"""

import triton
import triton.language as tl


@triton.jit
def load_affine(affine_ptr, sample, samples, channel, channels):
    """Load centre, scale and shift (BLOCK_IN,) of one sample from a (3, samples, channels) tensor."""
    pointer = affine_ptr + sample * channels + channel
    within = channel < channels
    center = tl.load(pointer, mask=within, other=0.0)
    scale = tl.load(pointer + samples * channels, mask=within, other=0.0)
    shift = tl.load(pointer + 2 * samples * channels, mask=within, other=0.0)
    return center, scale, shift


@triton.jit
def operand(x, DTYPE: tl.constexpr, WIDEN: tl.constexpr):
    """Round to the operands' dtype; the interpreter then needs float32 to multiply."""
    x = x.to(DTYPE)
    if WIDEN:
        x = x.to(tl.float32)
    return x


@triton.jit
def load_activated(
    data_ptr,
    row,
    column,
    wanted,
    channel,
    height,
    width,
    channels,
    center,
    scale,
    shift,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Load pixels (BLOCK_PIXELS, BLOCK_IN) through affine and ReLU; zero outside the image, after both."""
    inside = wanted & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel = tl.where(inside, row * width + column, 0)
    mask = inside[:, None] & (channel < channels)[None, :]
    x = tl.load(data_ptr + pixel[:, None] * channels + channel[None, :], mask=mask, other=0.0)
    h = x.to(ACCUMULATE)
    if AFFINE:
        h = (h - center[None, :]) * scale[None, :] + shift[None, :]
    if RELU:
        # Not tl.maximum: NaN must stay NaN.
        h = tl.where(h < 0, 0.0, h)
    return tl.where(mask, h, 0.0)


@triton.jit
def accumulate_taps(
    accumulator,
    data_ptr,
    affine_ptr,
    weight_ptr,
    sample,
    samples,
    row,
    column,
    wanted,
    out_channel,
    height,
    width,
    channels,
    out_channels,
    dilation,
    TAPS: tl.constexpr,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Add ``sum_taps sum_channels h * w`` to an accumulator (BLOCK_PIXELS, BLOCK_OUT).

    ``row`` and ``column`` (BLOCK_PIXELS,) are where the first of TAPS x TAPS taps reads; the weight is
    (TAPS * TAPS, channels, out_channels), so that a block of output channels is contiguous.
    """
    dtype = weight_ptr.dtype.element_ty
    data_ptr += sample.to(tl.int64) * height * width * channels
    for first_channel in range(0, channels, BLOCK_IN):
        channel = first_channel + tl.arange(0, BLOCK_IN)
        center, scale, shift = 0.0, 0.0, 0.0
        if AFFINE:
            center, scale, shift = load_affine(affine_ptr, sample, samples, channel, channels)
        for tap in range(TAPS * TAPS):
            h = load_activated(
                data_ptr,
                row + (tap // TAPS) * dilation,
                column + (tap % TAPS) * dilation,
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
            w = tl.load(
                weight_ptr + (tap * channels + channel[:, None]) * out_channels + out_channel[None, :],
                mask=(channel < channels)[:, None] & (out_channel < out_channels)[None, :],
                other=0.0,
            )
            accumulator = tl.dot(
                operand(h, dtype, WIDEN),
                operand(w, dtype, WIDEN),
                accumulator,
                input_precision=PRECISION,
                out_dtype=ACCUMULATE,
            )
    return accumulator
