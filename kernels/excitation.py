"""Squeeze-and-excitation of means, ``sigmoid(W2 relu(W1 mean))``, and its gradient.

One program takes one sample, the hidden vector in registers, and walks over blocks of channels; behind a convolution it
merges the statistics of the sample's tiles on the way. A program of the
gradient takes a block of channels, computes the hidden vectors of a few samples at a time, and sums over samples.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .batch_affine import load_or
from .config import accumulation
from .convolution import convolve
from .kernel import kernel
from .launch import launch
from .rounding import cdiv, next_power_of_2
from .statistics import merge_parts

_BLOCK = 64
_BLOCK_SAMPLES = 8
_BLOCK_PRODUCTS = 8192
_BLOCK_TILE_ELEMENTS = 4096


@kernel
def excitation_kernel(
    mean_ptr,
    count_ptr,
    m2_ptr,
    weight1_ptr,
    weight2_ptr,
    scale_ptr,
    shift_ptr,
    mean_out,
    m2_out,
    gate_out,
    affine_out,
    samples,
    tiles,
    channels,
    hidden,
    READERS: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write the gate of one sample; with counts the means are those of tiles, which are merged first.

    ``affine_out`` (READERS, 3, samples, channels) gets what each reader applies to the features before their gate:
    centre 0, its scale (READERS, channels) times the gate, and its shift. An output that is ``None`` is left out.
    """
    sample = tl.program_id(0)
    unit = tl.arange(0, BLOCK_HIDDEN)
    vector = tl.zeros((BLOCK_HIDDEN,), dtype=ACCUMULATE)
    for first in range(0, channels, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        offset = sample * channels + channel
        if count_ptr is not None:
            group = sample + tl.arange(0, 1)
            _, mean, m2 = merge_parts(
                count_ptr, mean_ptr, m2_ptr, group, samples, tiles, channel, channels, BLOCK_TILES, ACCUMULATE
            )
            mean = tl.sum(mean, axis=0)
            if mean_out is not None:
                tl.store(mean_out + offset, mean, mask=channel < channels)
                tl.store(m2_out + offset, tl.sum(m2, axis=0), mask=channel < channels)
        else:
            mean = tl.load(mean_ptr + offset, mask=channel < channels, other=0.0)
        mask = (unit < hidden)[:, None] & (channel < channels)[None, :]
        weight = tl.load(weight1_ptr + unit[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        vector += tl.sum(weight.to(ACCUMULATE) * mean[None, :], axis=1)
    # Not tl.maximum: NaN must stay NaN.
    vector = tl.where(vector < 0, 0.0, vector)
    for first in range(0, channels, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        mask = (channel < channels)[:, None] & (unit < hidden)[None, :]
        weight = tl.load(weight2_ptr + channel[:, None] * hidden + unit[None, :], mask=mask, other=0.0)
        excited = tl.sum(weight.to(ACCUMULATE) * vector[None, :], axis=1)
        gate = 1 / (1 + tl.exp(-excited))
        within = channel < channels
        offset = sample * channels + channel
        tl.store(gate_out + offset, gate, mask=within)
        if affine_out is not None:
            size = samples * channels
            for reader in tl.static_range(READERS):
                scale = tl.load(scale_ptr + reader * channels + channel, mask=within, other=0.0)
                shift = tl.load(shift_ptr + reader * channels + channel, mask=within, other=0.0)
                target = affine_out + reader * 3 * size + offset
                tl.store(target, tl.zeros((BLOCK,), dtype=ACCUMULATE), mask=within)
                tl.store(target + size, scale.to(ACCUMULATE) * gate, mask=within)
                tl.store(target + 2 * size, shift.to(ACCUMULATE), mask=within)


@kernel
def excitation_gradient_kernel(
    grad_ptr,
    gate_ptr,
    mean_ptr,
    weight1_ptr,
    weight2_ptr,
    added_mean_ptr,
    grad_m2_ptr,
    statistics_out,
    grad_weight1_out,
    grad_weight2_out,
    samples,
    channels,
    hidden,
    BLOCK_SAMPLES: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write a block of channels of dW1 (hidden, channels), dW2 (channels, hidden) and the statistics of each sample.

    Statistics are (3, samples, channels): mean, the gradient of M2 as given, that of the mean with ``added_mean``.
    """
    own = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    unit = tl.arange(0, BLOCK_HIDDEN)
    size = samples * channels
    grad_weight1 = tl.zeros((BLOCK_HIDDEN, BLOCK), dtype=ACCUMULATE)
    grad_weight2 = tl.zeros((BLOCK_HIDDEN, BLOCK), dtype=ACCUMULATE)
    for first_sample in range(0, samples, BLOCK_SAMPLES):
        sample = first_sample + tl.arange(0, BLOCK_SAMPLES)
        vector = tl.zeros((BLOCK_SAMPLES, BLOCK_HIDDEN), dtype=ACCUMULATE)
        grad_vector = tl.zeros((BLOCK_SAMPLES, BLOCK_HIDDEN), dtype=ACCUMULATE)
        for first in range(0, channels, BLOCK):
            channel = first + tl.arange(0, BLOCK)
            weight1, weight2 = load_weights(weight1_ptr, weight2_ptr, unit, hidden, channel, channels, ACCUMULATE)
            mean, grad = load_squeezed(mean_ptr, gate_ptr, grad_ptr, sample, samples, channel, channels)
            vector += tl.sum(weight1[None, :, :] * mean[:, None, :], axis=2)
            grad_vector += tl.sum(weight2[None, :, :] * grad[:, None, :], axis=2)
        # Not tl.maximum: NaN must stay NaN.
        vector = tl.where(vector < 0, 0.0, vector)
        grad_vector = tl.where(vector <= 0, 0.0, grad_vector)
        weight1, _ = load_weights(weight1_ptr, weight2_ptr, unit, hidden, own, channels, ACCUMULATE)
        mean, grad = load_squeezed(mean_ptr, gate_ptr, grad_ptr, sample, samples, own, channels)
        grad_weight1 += tl.sum(grad_vector[:, :, None] * mean[:, None, :], axis=0)
        grad_weight2 += tl.sum(vector[:, :, None] * grad[:, None, :], axis=0)
        mask = (sample < samples)[:, None] & (own < channels)[None, :]
        offset = sample[:, None] * channels + own[None, :]
        grad_mean = tl.sum(weight1[None, :, :] * grad_vector[:, :, None], axis=1)
        grad_mean += load_or(added_mean_ptr, offset, mask, 0.0, ACCUMULATE)
        tl.store(statistics_out + offset, mean, mask=mask)
        tl.store(statistics_out + size + offset, load_or(grad_m2_ptr, offset, mask, 0.0, ACCUMULATE), mask=mask)
        tl.store(statistics_out + 2 * size + offset, grad_mean, mask=mask)
    dtype: tl.constexpr = grad_weight1_out.dtype.element_ty
    mask = (unit < hidden)[:, None] & (own < channels)[None, :]
    tl.store(grad_weight1_out + unit[:, None] * channels + own[None, :], grad_weight1.to(dtype), mask=mask)
    tl.store(grad_weight2_out + own[None, :] * hidden + unit[:, None], grad_weight2.to(dtype), mask=mask)


@triton.jit
def load_weights(weight1_ptr, weight2_ptr, unit, hidden, channel, channels, ACCUMULATE: tl.constexpr):
    """Return a block of W1 (hidden, channels) and of the transposed W2."""
    mask = (unit < hidden)[:, None] & (channel < channels)[None, :]
    weight1 = tl.load(weight1_ptr + unit[:, None] * channels + channel[None, :], mask=mask, other=0.0)
    weight2 = tl.load(weight2_ptr + channel[None, :] * hidden + unit[:, None], mask=mask, other=0.0)
    return weight1.to(ACCUMULATE), weight2.to(ACCUMULATE)


@triton.jit
def load_squeezed(mean_ptr, gate_ptr, grad_ptr, sample, samples, channel, channels):
    """Return means (samples, channels) and the gradient before the sigmoid."""
    mask = (sample < samples)[:, None] & (channel < channels)[None, :]
    offset = sample[:, None] * channels + channel[None, :]
    mean = tl.load(mean_ptr + offset, mask=mask, other=0.0)
    gate = tl.load(gate_ptr + offset, mask=mask, other=0.0)
    grad = tl.load(grad_ptr + offset, mask=mask, other=0.0)
    return mean, grad * gate * (1 - gate)


def excitation(mean: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    """Return the gate (N, C); arguments are those of the operation."""
    gate = torch.empty_like(mean)
    launch_excitation(mean, None, None, weight1, weight2, None, None, gate)
    return gate


def conv_excitation(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    residual: Tensor | None,
    weight1: Tensor,
    weight2: Tensor,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, mean, M2 and gate of a convolution; arguments are those of ``conv`` and ``excitation``."""
    operands = (data, affine, relu, upsample, weight, bias, stride, 1, residual, None, None, False)
    output, _, tiles = convolve(*operands, True, packed)
    assert tiles is not None
    mean, m2, gate = (tiles.mean.new_empty(output.shape[:2]) for _ in range(3))
    launch_excitation(tiles.mean, tiles.count, tiles.m2, weight1, weight2, mean, m2, gate)
    return output, mean, m2, gate


def launch_excitation(
    mean: Tensor,
    count: Tensor | None,
    m2: Tensor | None,
    weight1: Tensor,
    weight2: Tensor,
    merged_mean: Tensor | None,
    merged_m2: Tensor | None,
    gate: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    affine: Tensor | None = None,
) -> None:
    """Launch the kernel; ``merged_mean``, ``merged_m2``, ``gate`` and ``affine`` are written, see there."""
    samples, channels = gate.shape
    hidden, tiles = weight1.shape[0], 1 if count is None else count.shape[1]
    block = min(_BLOCK, max(16, next_power_of_2(channels)))
    # With affines to write beside them, half as many fit into the registers.
    elements = _BLOCK_TILE_ELEMENTS // (1 if affine is None else 2)
    launch(
        excitation_kernel,
        (samples,),
        mean,
        count,
        m2,
        weight1,
        weight2,
        scale,
        shift,
        merged_mean,
        merged_m2,
        gate,
        affine,
        samples,
        tiles,
        channels,
        hidden,
        READERS=0 if affine is None else len(affine),
        BLOCK_TILES=min(elements // block, next_power_of_2(tiles)),
        BLOCK_HIDDEN=next_power_of_2(hidden),
        BLOCK=block,
        ACCUMULATE=accumulation(gate.dtype),
        num_warps=4,
    )


def excitation_backward(
    grad: Tensor,
    gate: Tensor,
    mean: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    added_mean: Tensor | None = None,
    grad_m2: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``statistics`` and the gradients of W1 and W2; the hidden vector is computed once more.

    ``statistics`` (3, N, C) are the mean and the gradients of M2 and mean, as the gradient of a convolution takes them:
    that of M2 as given, that of the mean with ``added_mean``, which reached it otherwise.
    """
    samples, channels = mean.shape
    hidden = weight1.shape[0]
    statistics = mean.new_empty((3, samples, channels))
    grad_weight1, grad_weight2 = torch.empty_like(weight1), torch.empty_like(weight2)
    block_hidden = next_power_of_2(hidden)
    # Products of samples, hidden units and channels are held in registers.
    block = max(16, min(_BLOCK, _BLOCK_PRODUCTS // (_BLOCK_SAMPLES * block_hidden)))
    launch(
        excitation_gradient_kernel,
        (cdiv(channels, block),),
        grad,
        gate,
        mean,
        weight1,
        weight2,
        added_mean,
        grad_m2,
        statistics,
        grad_weight1,
        grad_weight2,
        samples,
        channels,
        hidden,
        BLOCK_SAMPLES=_BLOCK_SAMPLES,
        BLOCK_HIDDEN=block_hidden,
        BLOCK=block,
        ACCUMULATE=accumulation(mean.dtype),
        num_warps=8,
    )
    return statistics, grad_weight1, grad_weight2
