"""A 1x1 convolution of other sources, added to the accumulators of a convolution: a shortcut that is never written."""

import triton
import triton.language as tl

from .implicit_gemm import accumulate


@triton.jit
def accumulate_side(
    accumulators,
    data_ptr,
    affine_ptr,
    height,
    width,
    channels,
    weight_ptr,
    pitch,
    sample,
    samples,
    row,
    column,
    wanted,
    out_channel,
    out_channels,
    UPSAMPLE: tl.constexpr,
    AFFINE: tl.constexpr,
    STRIDE: tl.constexpr,
    WINDOW_ROWS: tl.constexpr,
    WINDOW_COLUMNS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Add one source's products at windows of neighbours that start at (row, column) of the result.

    Position p of a window reads the source's row ``(row + p) * STRIDE``; with UPSAMPLE ``(row + p) // 2``, which is
    ``row // 2 + p // 2``, as windows of several rows start at even ones. The weight is (out_channels, pitch), its
    pointer at this source's first input.
    """
    if UPSAMPLE:
        first_row = row // 2
        first_column = column // 2
    else:
        first_row = row * STRIDE
        first_column = column * STRIDE
    return accumulate(
        accumulators,
        data_ptr,
        None,
        None,
        affine_ptr,
        weight_ptr,
        sample,
        samples,
        first_row,
        first_column,
        wanted,
        out_channel,
        height,
        width,
        channels,
        out_channels,
        0,
        pitch,
        1,
        "nearest" if UPSAMPLE else "forward",
        1,
        STRIDE,
        False,
        WINDOW_ROWS,
        WINDOW_COLUMNS,
        AFFINE,
        False,
        True,
        BLOCK_IN,
        EXACT,
        ACCUMULATE,
        PRECISION,
        PACKED,
        WIDEN,
        None,
    )
