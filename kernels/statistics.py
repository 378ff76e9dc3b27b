"""Statistics of a feature map from those of its tiles, merged by Chan's formula."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .config import accumulation
from .kernel import kernel
from .launch import launch
from .rounding import cdiv

_BLOCK_PARTS = 32
_BLOCK_CHANNELS = 16


@triton.jit
def store_statistics(values, masks, count_out, mean_out, m2_out, tile, channel, channels, EXACT: tl.constexpr):
    """Store count, mean and M2 of a tile, given as a tuple of (pixels, channels) blocks.

    Two passes over the tile in registers: the mean, then the squares of the deviations from it.
    """
    total = values[0] if EXACT else tl.where(masks[0], values[0], 0.0)
    for p in tl.static_range(1, len(values)):
        total += values[p] if EXACT else tl.where(masks[p], values[p], 0.0)
    number = tl.full((), len(values) * total.shape[0], tl.int32)
    if not EXACT:
        # Channels that exist are in the image or not together; the first one of a block always exists.
        inside = masks[0].to(tl.int32)
        for p in tl.static_range(1, len(values)):
            inside += masks[p].to(tl.int32)
        number = tl.max(tl.sum(inside, axis=0), axis=0)
    mean = tl.sum(total, axis=0) / tl.maximum(number, 1)
    squares = tl.zeros(total.shape, dtype=total.dtype)
    for p in tl.static_range(len(values)):
        deviation = values[p] - mean[None, :]
        if not EXACT:
            deviation = tl.where(masks[p], deviation, 0.0)
        squares += deviation * deviation
    within = channel < channels
    statistic = tile * channels + channel
    tl.store(mean_out + statistic, mean, mask=within)
    tl.store(m2_out + statistic, tl.sum(squares, axis=0), mask=within)
    if tl.program_id(1) == 0:
        tl.store(count_out + tile, number)


@triton.jit
def merge_parts(
    count_ptr,
    tile_mean_ptr,
    tile_m2_ptr,
    group,
    groups,
    parts,
    channel,
    channels,
    BLOCK_PARTS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Return counts (group, 1), means and M2 (group, channel) over the parts of (groups, parts, channels) statistics.

    mean = sum(count_k mean_k) / sum(count_k), M2 = sum(M2_k + count_k (mean_k - mean)^2); counts are (groups, parts).
    Groups that do not exist have no values, and 0 for both.
    """
    weighted = tl.zeros((group.shape[0], BLOCK_PARTS, channel.shape[0]), dtype=ACCUMULATE)
    counted = tl.zeros((group.shape[0], BLOCK_PARTS), dtype=ACCUMULATE)
    for first in range(0, parts, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        inside = (group < groups)[:, None] & (part < parts)[None, :]
        tile = group[:, None] * parts + part[None, :]
        count = tl.load(count_ptr + tile, mask=inside, other=0).to(ACCUMULATE)
        offset = tile[:, :, None] * channels + channel[None, None, :]
        mask = inside[:, :, None] & (channel < channels)[None, None, :]
        weighted += tl.load(tile_mean_ptr + offset, mask=mask, other=0.0) * count[:, :, None]
        counted += count
    number = tl.sum(counted, axis=1)[:, None]
    mean = tl.sum(weighted, axis=1) / tl.maximum(number, 1)
    squares = tl.zeros((group.shape[0], BLOCK_PARTS, channel.shape[0]), dtype=ACCUMULATE)
    for first in range(0, parts, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        inside = (group < groups)[:, None] & (part < parts)[None, :]
        tile = group[:, None] * parts + part[None, :]
        count = tl.load(count_ptr + tile, mask=inside, other=0).to(ACCUMULATE)
        offset = tile[:, :, None] * channels + channel[None, None, :]
        mask = inside[:, :, None] & (channel < channels)[None, None, :]
        deviation = tl.load(tile_mean_ptr + offset, mask=mask, other=0.0) - mean[:, None, :]
        squares += tl.load(tile_m2_ptr + offset, mask=mask, other=0.0) + count[:, :, None] * deviation * deviation
    return number, mean, tl.sum(squares, axis=1)


@kernel
def merge_statistics_kernel(
    count_ptr,
    tile_mean_ptr,
    tile_m2_ptr,
    mean_out,
    m2_out,
    groups,
    parts,
    channels,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    VARIANCE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Merge (groups, parts, channels) statistics of one group and a block of channels.

    With VARIANCE M2 is divided by the number of values.
    """
    group = tl.program_id(0) + tl.arange(0, 1)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    number, mean, m2 = merge_parts(
        count_ptr, tile_mean_ptr, tile_m2_ptr, group, groups, parts, channel, channels, BLOCK_PARTS, ACCUMULATE
    )
    if VARIANCE:
        m2 /= number
    offset = group[:, None] * channels + channel[None, :]
    mask = (channel < channels)[None, :]
    tl.store(mean_out + offset, mean, mask=mask)
    tl.store(m2_out + offset, m2, mask=mask)


def merge_statistics(
    count: Tensor, tile_mean: Tensor, tile_m2: Tensor, variance: bool = False
) -> tuple[Tensor, Tensor]:
    """Return mean and M2 (groups, channels) of (groups, parts, channels) tile statistics.

    Args:
        count: values of every part (groups, parts), int32.
        tile_mean: mean of every part; of parts without values it is ignored.
        tile_m2: sum of squared deviations of every part.
        variance: return the biased variance in place of M2.
    """
    groups, parts, channels = tile_mean.shape
    mean, m2 = (tile_mean.new_empty((groups, channels)) for _ in range(2))
    launch(
        merge_statistics_kernel,
        (groups, cdiv(channels, _BLOCK_CHANNELS)),
        count,
        tile_mean,
        tile_m2,
        mean,
        m2,
        groups,
        parts,
        channels,
        BLOCK_PARTS=_BLOCK_PARTS,
        BLOCK_CHANNELS=_BLOCK_CHANNELS,
        VARIANCE=variance,
        ACCUMULATE=accumulation(tile_mean.dtype),
    )
    return mean, m2
