"""A sum of dilated 3x3 convolutions without anything between: the folded ASPP, in one launch."""

from __future__ import annotations

from dataclasses import replace

import triton.language as tl
from torch import Tensor

from .choice import choose
from .config import Layer, arithmetic
from .convolution import empty_image, is_exact, source_arguments
from .implicit_gemm import accumulate, zero_accumulators
from .kernel import kernel
from .launch import launch
from .rounding import cdiv
from .supported import check_supported
from .tile import load_vector, store_block
from .window import select


@kernel
def pyramid_kernel(
    data_ptr,
    affine_ptr,
    height,
    width,
    channels,
    weight_ptr,
    bias_ptr,
    total_out,
    samples,
    tiles,
    out_channels,
    RATES: tl.constexpr,
    PLACES: tl.constexpr,
    AFFINE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute BLOCK_PIXELS pixels of one sample by BLOCK_OUT channels.

    The weight of the convolution with dilation ``RATES[k]`` is (9, channels, out_channels) at place ``PLACES[k]``.
    """
    sample = tl.program_id(0) // tiles
    pixel = tl.program_id(0) % tiles * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    wanted = pixel < height * width
    row, column = pixel // width, pixel % width
    out_channel = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    slot_size = channels * out_channels
    totals = zero_accumulators(1, BLOCK_PIXELS, BLOCK_OUT, ACCUMULATE)
    for branch in range(len(RATES)):
        dilation = select(branch, RATES, tl.int32)
        totals = accumulate(
            totals,
            data_ptr,
            None,
            None,
            affine_ptr,
            weight_ptr + select(branch, PLACES, tl.int32) * 9 * slot_size,
            sample,
            samples,
            row - dilation,
            column - dilation,
            wanted,
            out_channel,
            height,
            width,
            channels,
            out_channels,
            slot_size,
            out_channels,
            dilation,
            "forward",
            3,
            1,
            False,
            1,
            1,
            AFFINE,
            False,
            False,
            BLOCK_IN,
            EXACT,
            ACCUMULATE,
            PRECISION,
            PACKED,
            WIDEN,
            None,
        )
    bias = load_vector(bias_ptr, out_channel, out_channels, EXACT).to(ACCUMULATE)
    total = (totals[0] + bias[None, :]).to(total_out.dtype.element_ty)
    base = sample.to(tl.int64) * height * width * out_channels
    offset = pixel[:, None] * out_channels + out_channel[None, :]
    mask = wanted[:, None] & (out_channel < out_channels)[None, :]
    store_block(total_out + base + offset, total, mask, EXACT)


def folded_pyramid(data: Tensor, affine: Tensor, weight: Tensor, bias: Tensor, rates: list[int]) -> Tensor:
    """Return the sum of convolutions; arguments are those of the operation.

    A rate that reaches the image from no pixel is left out: its centre is part of the first one.
    """
    (samples, inputs, height, width), outputs = data.shape, bias.shape[0]
    check_supported([data], [False], False, 1, max(rates), outputs * height * width)
    kept = [place for place, rate in enumerate(rates) if place == 0 or rate < max(height, width)]
    layer = Layer("forward", data.dtype, inputs, outputs, 3, 1, max(2, *rates), False, False, height * width)
    config = replace(choose(layer, data.device), window_rows=1)
    total = empty_image(data, outputs, height, width, data.dtype)
    tiles = cdiv(height * width, config.block_pixels)
    launch(
        pyramid_kernel,
        (samples * tiles, cdiv(outputs, config.block_out)),
        *source_arguments(data, affine),
        weight,
        bias,
        total,
        samples,
        tiles,
        outputs,
        multiply_adds=9 * len(kept) * samples * outputs * inputs * height * width,
        RATES=tuple(rates[place] for place in kept),
        PLACES=tuple(kept),
        AFFINE=affine.shape[0],
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        EXACT=is_exact(total.shape, (1, 1), 1, config, [inputs]),
        num_warps=config.warps,
        num_stages=config.stages,
        **arithmetic(data.dtype),
    )
    return total
