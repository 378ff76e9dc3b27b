"""Tiles of an output gradient, put together as ``output_gradient`` says."""

import triton
import triton.language as tl

from .operand import load_input, load_statistics, operand, sample_start
from .tile import load_block


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
    """Load pixels (BLOCK_PIXELS, BLOCK_OUT) of the output's gradient, put together."""
    # None cannot be returned in a tuple before Triton 3.8.
    start = sample_start(sample, height, width, channels, winner_ptr is not None)
    grad_ptr += start
    if output_ptr is not None:
        output_ptr += start
    if winner_ptr is not None:
        winner_ptr += start
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
