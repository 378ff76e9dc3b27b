"""Statistics of a feature map from those of its tiles, merged by Chan's formula."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def merge_statistics_kernel(
    tile_mean_ptr,
    tile_m2_ptr,
    mean_ptr,
    m2_ptr,
    parts,
    tiles,
    pixels,
    channels,
    tile_pixels,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Merge (samples, parts, channels) tile statistics of one sample and a block of channels.

    Part ``k`` counts ``tile_pixels`` values, or what is left of ``pixels`` in the last of every ``tiles`` parts:
    mean = sum(count mean_k) / sum(count), M2 = sum(M2_k + count (mean_k - mean)^2).
    """
    sample = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    within = channel < channels
    total = tl.zeros((BLOCK_CHANNELS,), dtype=ACCUMULATE)
    for first in range(0, parts, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        count = tl.where(part < parts, tl.minimum(pixels - (part % tiles) * tile_pixels, tile_pixels), 0)
        offset = (sample * parts + part)[:, None] * channels + channel[None, :]
        mask = (part < parts)[:, None] & within[None, :]
        total += tl.sum(tl.load(tile_mean_ptr + offset, mask=mask, other=0.0) * count[:, None].to(ACCUMULATE), axis=0)
    mean = total / (pixels * (parts // tiles))
    m2 = tl.zeros((BLOCK_CHANNELS,), dtype=ACCUMULATE)
    for first in range(0, parts, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        count = tl.where(part < parts, tl.minimum(pixels - (part % tiles) * tile_pixels, tile_pixels), 0)
        offset = (sample * parts + part)[:, None] * channels + channel[None, :]
        mask = (part < parts)[:, None] & within[None, :]
        deviation = tl.load(tile_mean_ptr + offset, mask=mask, other=0.0) - mean[None, :]
        tile_m2 = tl.load(tile_m2_ptr + offset, mask=mask, other=0.0)
        m2 += tl.sum(tile_m2 + count[:, None].to(ACCUMULATE) * deviation * deviation, axis=0)
    tl.store(mean_ptr + sample * channels + channel, mean, mask=within)
    tl.store(m2_ptr + sample * channels + channel, m2, mask=within)


def merge_statistics(
    tile_mean: Tensor, tile_m2: Tensor, tiles: int, pixels: int, tile_pixels: int
) -> tuple[Tensor, Tensor]:
    """Return mean and M2 (samples, channels) of (samples, parts, channels) tile statistics.

    Args:
        tile_mean: mean of every part.
        tile_m2: sum of squared deviations of every part.
        tiles: parts that walk one grid of pixels; there may be several grids.
        pixels: pixels of one grid.
        tile_pixels: pixels of a part, except the last one of a grid.
    """
    samples, parts, channels = tile_mean.shape
    mean, m2 = (torch.empty_like(tile_mean[:, 0]) for _ in range(2))
    block = min(64, triton.next_power_of_2(channels))
    accumulate = tl.float64 if tile_mean.dtype == torch.float64 else tl.float32
    merge_statistics_kernel[(samples, triton.cdiv(channels, block))](
        tile_mean,
        tile_m2,
        mean,
        m2,
        parts,
        tiles,
        pixels,
        channels,
        tile_pixels,
        BLOCK_PARTS=32,
        BLOCK_CHANNELS=block,
        ACCUMULATE=accumulate,
    )
    return mean, m2
