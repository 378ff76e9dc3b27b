"""A convolution whose result a BatchNorm reads: the statistics of its tiles become centre, scale and shift at once.

A program takes all samples and tiles of a block of channels, statistics of the samples in registers. Where these are
too many for one program, merging them is a launch of its own, which has a program for each sample.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from .batch_affine import batch_affine
from .config import accumulation
from .convolution import Tiles, conv, convolve
from .kernel import kernel
from .launch import launch
from .rounding import cdiv, next_power_of_2
from .statistics import merge_parts, merge_statistics

_BLOCK_CHANNELS = 16
# Samples times tiles that a program loads at once, and that it takes at most: these are 256 kB in float32.
_BLOCK_TILES = 512
_MOST_TILES = 2048
_MOST_SAMPLES = 16


@kernel
def merged_affine_kernel(
    count_ptr,
    tile_mean_ptr,
    tile_m2_ptr,
    gamma_ptr,
    beta_ptr,
    mean_out,
    m2_out,
    affine_out,
    mu_out,
    var_out,
    samples,
    tiles,
    channels,
    EPS: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write mean and M2 (samples, channels), the affine (3, samples, channels), mean and variance of the batch."""
    sample = tl.arange(0, BLOCK_SAMPLES)
    channel = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    within = channel < channels
    pixels, mean, m2 = merge_parts(
        count_ptr, tile_mean_ptr, tile_m2_ptr, sample, samples, tiles, channel, channels, BLOCK_TILES, ACCUMULATE
    )
    mask = (sample < samples)[:, None] & within[None, :]
    mu = tl.sum(mean, axis=0) / samples
    deviation = mean - mu[None, :]
    spread = m2 / tl.maximum(pixels, 1) + tl.where(mask, deviation * deviation, 0.0)
    var = tl.sum(spread, axis=0) / samples
    gamma = tl.load(gamma_ptr + channel, mask=within, other=0.0).to(ACCUMULATE)
    beta = tl.load(beta_ptr + channel, mask=within, other=0.0).to(ACCUMULATE)
    slope = gamma / tl.sqrt(var + tl.full((), EPS, ACCUMULATE))
    size = samples * channels
    offset = sample[:, None] * channels + channel[None, :]
    tl.store(mean_out + offset, mean, mask=mask)
    tl.store(m2_out + offset, m2, mask=mask)
    tl.store(affine_out + offset, mean, mask=mask)
    tl.store(affine_out + size + offset, tl.broadcast_to(slope[None, :], mean.shape), mask=mask)
    tl.store(affine_out + 2 * size + offset, beta[None, :] + deviation * slope[None, :], mask=mask)
    tl.store(mu_out + channel, mu, mask=within)
    tl.store(var_out + channel, var, mask=within)


def conv_batch_affine(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    residual: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return output, mean, M2, the affine (3, N, C) it is read through, and the mean and variance that is from.

    Arguments are those of ``conv`` and ``batch_affine``. For running statistics mean and M2 are empty.
    """
    operands = (data, affine, relu, upsample, weight, bias, stride, 1, residual, None, None, False)
    if running_mean is None:
        output, _, tiles = convolve(*operands, True, packed)
        assert tiles is not None
        if output.shape[0] <= _MOST_SAMPLES and tiles.count.numel() <= _MOST_TILES:
            return output, *_merged_affine(tiles, gamma, beta, eps)
        mean, m2 = merge_statistics(*tiles)
    else:
        output, mean, m2, _ = conv(*operands, False, packed)
    samples, channels, height, width = output.shape
    dtype = torch.promote_types(output.dtype, torch.float32)
    moments = (mean, m2, None, height * width, None, None, None, 1)
    result, _, mu, var = batch_affine(*moments, samples, channels, gamma, beta, eps, running_mean, running_var, dtype)
    return output, mean, m2, result, mu, var


def _merged_affine(
    tiles: Tiles, gamma: Tensor, beta: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    samples, count, channels = tiles.mean.shape
    mean, m2 = (tiles.mean.new_empty((samples, channels)) for _ in range(2))
    affine = mean.new_empty((3, samples, channels))
    mu, var = (mean.new_empty(channels) for _ in range(2))
    block_samples = next_power_of_2(samples)
    launch(
        merged_affine_kernel,
        (cdiv(channels, _BLOCK_CHANNELS),),
        *tiles,
        gamma,
        beta,
        mean,
        m2,
        affine,
        mu,
        var,
        samples,
        count,
        channels,
        EPS=eps,
        BLOCK_SAMPLES=block_samples,
        BLOCK_TILES=min(_BLOCK_TILES // block_samples, next_power_of_2(count)),
        BLOCK_CHANNELS=_BLOCK_CHANNELS,
        ACCUMULATE=accumulation(mean.dtype),
        num_warps=8,
    )
    return mean, m2, affine, mu, var
