"""Gradient of ``batch_affine``: from those of scale and shift to those of mean, M2, gate, gamma and beta.

    dslope = sum_n (dscale gate + dshift (a - mu)),  dgamma = dslope rstd,  dbeta = sum_n dshift,
    dvar = -dslope slope rstd^2 / 2,  s = (2 dvar (a - mu) - slope dbeta) / N,  dmean = s gate,
    dM2 = dvar gate^2 / (N P),  dgate = dscale slope + (s + slope dshift) mean + 2 dvar gate M2 / (N P)

For running statistics a is 0 and only the first term of dgate is left.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .batch_affine import load_or
from .config import accumulation
from .kernel import kernel
from .launch import launch
from .rounding import cdiv

_BLOCK_CHANNELS = 16
_BLOCK_SAMPLES = 8


@triton.jit
def write_gradient(
    grad_affine_ptr,
    mean_ptr,
    m2_ptr,
    gate_ptr,
    added_gate_ptr,
    pixels,
    gamma_ptr,
    mu_ptr,
    var_ptr,
    statistics_out,
    grad_gate_out,
    grad_gamma_out,
    grad_beta_out,
    samples,
    first_channel,
    channels,
    block,
    EPS: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write the gradients of one map, whose BatchNorm vectors start at ``first_channel``, and its mean before them."""
    channel = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    within = channel < channels
    vector = first_channel + channel
    size = samples * channels
    mu = tl.load(mu_ptr + vector, mask=within, other=0.0)
    rstd = 1 / tl.sqrt(tl.load(var_ptr + vector, mask=within, other=0.0) + tl.full((), EPS, ACCUMULATE))
    slope = tl.load(gamma_ptr + vector, mask=within, other=0.0).to(ACCUMULATE) * rstd
    slopes = tl.zeros((BLOCK_SAMPLES, BLOCK_CHANNELS), dtype=ACCUMULATE)
    shifts = tl.zeros((BLOCK_SAMPLES, BLOCK_CHANNELS), dtype=ACCUMULATE)
    for first in range(0, samples, BLOCK_SAMPLES):
        sample = first + tl.arange(0, BLOCK_SAMPLES)
        mask = (sample < samples)[:, None] & within[None, :]
        offset = sample[:, None] * channels + channel[None, :]
        gate = load_or(gate_ptr, offset, mask, 1.0, ACCUMULATE)
        deviation = load_or(mean_ptr, offset, mask, 0.0, ACCUMULATE) * gate - mu[None, :]
        grad_scale = tl.load(grad_affine_ptr + size + offset, mask=mask, other=0.0)
        grad_shift = tl.load(grad_affine_ptr + 2 * size + offset, mask=mask, other=0.0)
        slopes += grad_scale * gate + grad_shift * deviation
        shifts += grad_shift
    grad_slope = tl.sum(slopes, axis=0)
    grad_beta = tl.sum(shifts, axis=0)
    dtype: tl.constexpr = grad_gamma_out.dtype.element_ty
    tl.store(grad_gamma_out + vector, (grad_slope * rstd).to(dtype), mask=within)
    tl.store(grad_beta_out + vector, grad_beta.to(dtype), mask=within)
    grad_var = -0.5 * grad_slope * slope * rstd * rstd
    for first in range(0, samples, BLOCK_SAMPLES):
        sample = first + tl.arange(0, BLOCK_SAMPLES)
        mask = (sample < samples)[:, None] & within[None, :]
        offset = sample[:, None] * channels + channel[None, :]
        grad_gate = tl.load(grad_affine_ptr + size + offset, mask=mask, other=0.0) * slope[None, :]
        if mean_ptr is not None:
            gate = load_or(gate_ptr, offset, mask, 1.0, ACCUMULATE)
            mean = tl.load(mean_ptr + offset, mask=mask, other=0.0)
            grad_shift = tl.load(grad_affine_ptr + 2 * size + offset, mask=mask, other=0.0)
            grad_statistics = 2 * grad_var[None, :] * (mean * gate - mu[None, :]) - (slope * grad_beta)[None, :]
            grad_statistics /= samples
            grad_spread = grad_var[None, :] * gate / samples / pixels
            tl.store(statistics_out + offset, mean, mask=mask)
            tl.store(statistics_out + size + offset, grad_spread * gate, mask=mask)
            tl.store(statistics_out + 2 * size + offset, grad_statistics * gate, mask=mask)
            if gate_ptr is not None:
                m2 = tl.load(m2_ptr + offset, mask=mask, other=0.0)
                grad_gate += (grad_statistics + slope[None, :] * grad_shift) * mean + 2 * grad_spread * m2
        if gate_ptr is not None:
            grad_gate += load_or(added_gate_ptr, offset, mask, 0.0, ACCUMULATE)
            tl.store(grad_gate_out + offset, grad_gate, mask=mask)


@kernel
def batch_affine_gradient_kernel(
    gamma_ptr,
    mu_ptr,
    var_ptr,
    grad_affine_ptr,
    mean_ptr,
    m2_ptr,
    gate_ptr,
    added_gate_ptr,
    pixels,
    grad_affine2_ptr,
    mean2_ptr,
    m2_2_ptr,
    gate2_ptr,
    added_gate2_ptr,
    pixels2,
    statistics_out,
    grad_gate_out,
    statistics2_out,
    grad_gate2_out,
    grad_gamma_out,
    grad_beta_out,
    samples,
    channels,
    channels2,
    EPS: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write the gradients of either map; the first blocks of channels are the first map's."""
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    if tl.program_id(0) < blocks:
        write_gradient(
            grad_affine_ptr,
            mean_ptr,
            m2_ptr,
            gate_ptr,
            added_gate_ptr,
            pixels,
            gamma_ptr,
            mu_ptr,
            var_ptr,
            statistics_out,
            grad_gate_out,
            grad_gamma_out,
            grad_beta_out,
            samples,
            0,
            channels,
            tl.program_id(0),
            EPS,
            BLOCK_SAMPLES,
            BLOCK_CHANNELS,
            ACCUMULATE,
        )
    elif grad_affine2_ptr is not None:
        write_gradient(
            grad_affine2_ptr,
            mean2_ptr,
            m2_2_ptr,
            gate2_ptr,
            added_gate2_ptr,
            pixels2,
            gamma_ptr,
            mu_ptr,
            var_ptr,
            statistics2_out,
            grad_gate2_out,
            grad_gamma_out,
            grad_beta_out,
            samples,
            channels,
            channels2,
            tl.program_id(0) - blocks,
            EPS,
            BLOCK_SAMPLES,
            BLOCK_CHANNELS,
            ACCUMULATE,
        )


def batch_affine_backward(
    grad_affine: Tensor,
    grad_affine2: Tensor,
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
    mu: Tensor,
    var: Tensor,
    eps: float,
    batch_statistics: bool,
    added_gate: Tensor | None = None,
    added_gate2: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return ``statistics`` and the gradient of the gate of either map (empty where there is none), of gamma and beta.

    ``statistics`` are the mean and the gradients of M2 and mean (3, N, C), as the gradient of a convolution takes them.
    Gradients of gates include ``added_gate``, which reached them otherwise.
    """
    rest = gamma.shape[0] - channels
    first, second = ((mean, m2, gate), (mean2, m2_2, gate2))
    if not batch_statistics:
        first, second = (None, None, gate), (None, None, gate2)
    results = []
    for center, _, factor in (first, second):
        results.append(None if center is None else center.new_empty((3, *center.shape)))
        results.append(None if factor is None else torch.empty_like(factor))
    grad_gamma, grad_beta = (gamma.new_empty(gamma.shape) for _ in range(2))
    launch(
        batch_affine_gradient_kernel,
        (cdiv(channels, _BLOCK_CHANNELS) + cdiv(rest, _BLOCK_CHANNELS),),
        gamma,
        mu,
        var,
        grad_affine,
        *first,
        added_gate,
        pixels,
        grad_affine2 if rest else None,
        *second,
        added_gate2,
        pixels2,
        *results,
        grad_gamma,
        grad_beta,
        samples,
        channels,
        rest,
        EPS=eps,
        BLOCK_SAMPLES=_BLOCK_SAMPLES,
        BLOCK_CHANNELS=_BLOCK_CHANNELS,
        ACCUMULATE=accumulation(mu.dtype),
        num_warps=1,
    )
    return *(mu.new_empty(0) if result is None else result for result in results), grad_gamma, grad_beta
