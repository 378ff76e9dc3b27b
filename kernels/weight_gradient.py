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

from .weight_gradient_all_taps import write_all_taps
from .weight_gradient_one_tap import write_one_tap
from .window import select


@triton.jit
def write_weight_gradient(
    program,
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
    DILATIONS: tl.constexpr,
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
    """Compute what one of the programs of a weight gradient does, for one of the branches with DILATIONS.

    Programs run over splits first, then over blocks of channels, then over slots unless one takes all, then over
    branches. Slabs are (branches, splits, slots, channels, out_channels); the gradient of branch k of the output starts
    k images after the first.
    """
    ALL_TAPS: tl.constexpr = TILE[7]
    SLOTS: tl.constexpr = TAPS * TAPS * (4 if UPSAMPLE and (TAPS == 2 or not ALL_TAPS) else 1)
    blocks_in = tl.cdiv(channels, TILE[1])
    blocks_out = tl.cdiv(out_channels, TILE[2])
    programs = splits * blocks_in * blocks_out * (1 if ALL_TAPS else SLOTS)
    branch, program = program // programs, program % programs
    split, block = program % splits, program // splits
    dilation = select(branch, DILATIONS, tl.int32)
    if len(DILATIONS) > 1:
        grad_ptr += branch.to(tl.int64) * samples * out_height * out_width * out_channels
        slab_out += branch.to(tl.int64) * splits * SLOTS * channels * out_channels
    if ALL_TAPS:
        write_all_taps(
            split,
            block % blocks_in,
            block // blocks_in,
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
            TAPS,
            UPSAMPLE,
            AFFINE,
            RELU,
            STEP,
            TILE,
            ACCUMULATE,
            PRECISION,
            PACKED,
            WIDEN,
        )
    else:
        write_one_tap(
            split,
            block % (blocks_in * blocks_out),
            block // (blocks_in * blocks_out),
            SLOTS,
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
            TAPS,
            UPSAMPLE,
            AFFINE,
            RELU,
            TILE,
            ACCUMULATE,
            PRECISION,
            PACKED,
            WIDEN,
        )
