"""Gradient of a source: convolution of the output's gradient, then back through ReLU and affine as it is written.

With ``z = (u - center) * scale + shift`` and ``dz = dh [z > 0]`` a program writes ``du = dz * scale`` and, for its
tile, ``sum dz`` and ``sum dz (u - center)``: the gradients of shift and scale.

One program computes BLOCK_PIXELS pixels of the source by BLOCK_OUT of its channels, from taps that read the output's
gradient at ``row * read_stride + offset``. For a convolution of stride 2 the source's pixels (2 row + p, 2 column + q)
of one parity are walked together, since they share their taps.
"""

import triton
import triton.language as tl

from .operand import accumulate_taps, load_affine


@triton.jit
def input_gradient_kernel(
    grad_ptr,
    weight_ptr,
    data_ptr,
    affine_ptr,
    grad_data_ptr,
    shift_sum_ptr,
    scale_sum_ptr,
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
    read_stride,
    offset,
    dilation,
    TAPS: tl.constexpr,
    PARITY: tl.constexpr,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute a tile of the gradient of a source of (height, width, channels), over a grid of (rows, columns)."""
    parts = tiles * (4 if PARITY else 1)
    sample = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    quarter = part // tiles
    pixel = (part % tiles) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    small_row, small_column = pixel // columns, pixel % columns
    row, column = small_row, small_column
    if PARITY:
        row = small_row * 2 + quarter // 2
        column = small_column * 2 + quarter % 2
    wanted = (pixel < rows * columns) & (row < height) & (column < width)
    channel = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    within = channel < channels
    mask = wanted[:, None] & within[None, :]

    if PARITY:
        weight_ptr += quarter * TAPS * TAPS * grad_channels * channels
    grad = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE)
    grad = accumulate_taps(
        grad,
        grad_ptr,
        affine_ptr,
        weight_ptr,
        sample,
        samples,
        small_row * read_stride + offset,
        small_column * read_stride + offset,
        wanted,
        channel,
        grad_height,
        grad_width,
        grad_channels,
        channels,
        dilation,
        TAPS,
        False,
        False,
        BLOCK_IN,
        ACCUMULATE,
        PRECISION,
        WIDEN,
    )
    base = sample.to(tl.int64) * height * width * channels
    position = tl.where(wanted, row * width + column, 0)[:, None] * channels + channel[None, :]
    if AFFINE or RELU:
        z = tl.load(data_ptr + base + position, mask=mask, other=0.0).to(ACCUMULATE)
        deviation, scale = z, 1.0
        if AFFINE:
            center, scale, shift = load_affine(affine_ptr, sample, samples, channel, channels)
            deviation = z - center[None, :]
            z = deviation * scale[None, :] + shift[None, :]
        if RELU:
            # Through NaN the gradient passes, as in PyTorch.
            grad = tl.where(z <= 0, 0.0, grad)
        if AFFINE:
            grad = tl.where(mask, grad, 0.0)
            statistic = tl.program_id(0) * channels + channel
            tl.store(shift_sum_ptr + statistic, tl.sum(grad, axis=0), mask=within)
            tl.store(scale_sum_ptr + statistic, tl.sum(grad * deviation, axis=0), mask=within)
            grad *= scale[None, :]  # type: ignore[index]
    tl.store(grad_data_ptr + base + position, grad.to(grad_data_ptr.dtype.element_ty), mask=mask)
