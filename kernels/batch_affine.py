"""BatchNorm as centre, scale and shift of every sample and channel, and its gradient.

With a = gate mean over N samples of P pixels each, and slope = gamma / sqrt(var + eps):

    mu = sum_n a / N,  var = sum_n (gate^2 M2 / P + (a - mu)^2) / N,  scale = slope gate,  shift = beta + (a - mu) slope

For running statistics mu and var are given, and a is 0. What is read does not depend on the centre: it is a constant
that happens to be the mean. A program takes all samples of a block of channels of one map.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import accumulation
from .kernel import kernel
from .launch import launch
from .rounding import cdiv

_BLOCK_CHANNELS = 16
_BLOCK_SAMPLES = 8


@triton.jit
def load_or(pointer, offset, mask, VALUE: tl.constexpr, ACCUMULATE: tl.constexpr):
    """Load elements, 0 outside the mask; VALUE for all of them where the pointer is ``None``."""
    if pointer is not None:
        value = tl.load(pointer + offset, mask=mask, other=0.0).to(ACCUMULATE)
    else:
        value = tl.full(offset.shape, VALUE, ACCUMULATE)
    return value


@triton.jit
def write_affine(
    mean_ptr,
    m2_ptr,
    gate_ptr,
    pixels,
    gamma_ptr,
    beta_ptr,
    running_mean_ptr,
    running_var_ptr,
    affine_out,
    mu_out,
    var_out,
    samples,
    first_channel,
    channels,
    block,
    EPS: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write the affine (3, samples, channels) of one map, whose BatchNorm vectors start at ``first_channel``."""
    channel = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    within = channel < channels
    vector = first_channel + channel
    if running_mean_ptr is not None:
        mu = tl.load(running_mean_ptr + vector, mask=within, other=0.0).to(ACCUMULATE)
        var = tl.load(running_var_ptr + vector, mask=within, other=0.0).to(ACCUMULATE)
    else:
        total = tl.zeros((BLOCK_SAMPLES, BLOCK_CHANNELS), dtype=ACCUMULATE)
        for first in range(0, samples, BLOCK_SAMPLES):
            sample = first + tl.arange(0, BLOCK_SAMPLES)
            mask = (sample < samples)[:, None] & within[None, :]
            offset = sample[:, None] * channels + channel[None, :]
            total += tl.load(mean_ptr + offset, mask=mask, other=0.0) * load_or(gate_ptr, offset, mask, 1.0, ACCUMULATE)
        mu = tl.sum(total, axis=0) / samples
        total = tl.zeros((BLOCK_SAMPLES, BLOCK_CHANNELS), dtype=ACCUMULATE)
        for first in range(0, samples, BLOCK_SAMPLES):
            sample = first + tl.arange(0, BLOCK_SAMPLES)
            mask = (sample < samples)[:, None] & within[None, :]
            offset = sample[:, None] * channels + channel[None, :]
            gate = load_or(gate_ptr, offset, mask, 1.0, ACCUMULATE)
            deviation = tl.load(mean_ptr + offset, mask=mask, other=0.0) * gate - mu[None, :]
            spread = tl.load(m2_ptr + offset, mask=mask, other=0.0) * gate * gate / pixels
            total += spread + tl.where(mask, deviation * deviation, 0.0)
        var = tl.sum(total, axis=0) / samples
    tl.store(mu_out + vector, mu, mask=within)
    tl.store(var_out + vector, var, mask=within)
    gamma = tl.load(gamma_ptr + vector, mask=within, other=0.0).to(ACCUMULATE)
    beta = tl.load(beta_ptr + vector, mask=within, other=0.0).to(ACCUMULATE)
    slope = gamma / tl.sqrt(var + tl.full((), EPS, ACCUMULATE))
    size = samples * channels
    for first in range(0, samples, BLOCK_SAMPLES):
        sample = first + tl.arange(0, BLOCK_SAMPLES)
        mask = (sample < samples)[:, None] & within[None, :]
        offset = sample[:, None] * channels + channel[None, :]
        gate = load_or(gate_ptr, offset, mask, 1.0, ACCUMULATE)
        center = load_or(mean_ptr, offset, mask, 0.0, ACCUMULATE)
        shift = beta[None, :] + (center * gate - mu[None, :]) * slope[None, :]
        tl.store(affine_out + offset, center, mask=mask)
        tl.store(affine_out + size + offset, gate * slope[None, :], mask=mask)
        tl.store(affine_out + 2 * size + offset, shift, mask=mask)


@kernel
def batch_affine_kernel(
    gamma_ptr,
    beta_ptr,
    running_mean_ptr,
    running_var_ptr,
    mean_ptr,
    m2_ptr,
    gate_ptr,
    pixels,
    mean2_ptr,
    m2_2_ptr,
    gate2_ptr,
    pixels2,
    affine_out,
    affine2_out,
    mu_out,
    var_out,
    samples,
    channels,
    channels2,
    EPS: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write the affine of either map; the first blocks of channels are the first map's."""
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    if tl.program_id(0) < blocks:
        write_affine(
            mean_ptr,
            m2_ptr,
            gate_ptr,
            pixels,
            gamma_ptr,
            beta_ptr,
            running_mean_ptr,
            running_var_ptr,
            affine_out,
            mu_out,
            var_out,
            samples,
            0,
            channels,
            tl.program_id(0),
            EPS,
            BLOCK_SAMPLES,
            BLOCK_CHANNELS,
            ACCUMULATE,
        )
    elif affine2_out is not None:
        write_affine(
            mean2_ptr,
            m2_2_ptr,
            gate2_ptr,
            pixels2,
            gamma_ptr,
            beta_ptr,
            running_mean_ptr,
            running_var_ptr,
            affine2_out,
            mu_out,
            var_out,
            samples,
            channels,
            channels2,
            tl.program_id(0) - blocks,
            EPS,
            BLOCK_SAMPLES,
            BLOCK_CHANNELS,
            ACCUMULATE,
        )


def batch_affine(
    mean: Tensor | None,
    m2: Tensor | None,
    gate: Tensor | None,
    pixels: int,
    mean2: Tensor | None,
    m2_2: Tensor | None,
    gate2: Tensor | None,
    pixels2: int,
    samples: int,
    channels: int,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the affine of either map (the second one empty if there is none), and the mean and variance they are from.

    Arguments are those of the operation.
    """
    rest = gamma.shape[0] - channels
    affine = gamma.new_empty((3, samples, channels), dtype=dtype)
    affine2 = gamma.new_empty((3, samples, rest) if rest else 0, dtype=dtype)
    mu, var = (gamma.new_empty(gamma.shape, dtype=dtype) for _ in range(2))
    from_batch = running_mean is None
    launch(
        batch_affine_kernel,
        (cdiv(channels, _BLOCK_CHANNELS) + cdiv(rest, _BLOCK_CHANNELS),),
        gamma,
        beta,
        running_mean,
        running_var,
        *((mean, m2) if from_batch else (None, None)),
        gate,
        pixels,
        *((mean2, m2_2) if from_batch else (None, None)),
        gate2,
        pixels2,
        affine,
        affine2 if rest else None,
        mu,
        var,
        samples,
        channels,
        rest,
        EPS=eps,
        BLOCK_SAMPLES=_BLOCK_SAMPLES,
        BLOCK_CHANNELS=_BLOCK_CHANNELS,
        ACCUMULATE=accumulation(dtype),
        num_warps=1,
    )
    return affine, affine2, mu, var
