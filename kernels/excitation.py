"""Squeeze-and-excitation of means, ``sigmoid(W2 relu(W1 mean))``, and its gradient.

One program takes one sample, the hidden vector in registers, and walks over blocks of channels. The gradient's second
stage takes a block of channels and sums over samples.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import accumulation
from .launch import launch
from .rounding import cdiv, next_power_of_2

_BLOCK = 64


@triton.jit
def hidden_vector(
    mean_ptr,
    weight1_ptr,
    sample,
    channels,
    hidden,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Return ``relu(W1 mean)`` (BLOCK_HIDDEN,) of one sample; W1 is (hidden, channels)."""
    unit = tl.arange(0, BLOCK_HIDDEN)
    total = tl.zeros((BLOCK_HIDDEN,), dtype=ACCUMULATE)
    for first in range(0, channels, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        mask = (unit < hidden)[:, None] & (channel < channels)[None, :]
        weight = tl.load(weight1_ptr + unit[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        mean = tl.load(mean_ptr + sample * channels + channel, mask=channel < channels, other=0.0)
        total += tl.sum(weight.to(ACCUMULATE) * mean[None, :], axis=1)
    # Not tl.maximum: NaN must stay NaN.
    return tl.where(total < 0, 0.0, total)


@triton.jit
def excitation_kernel(
    mean_ptr,
    weight1_ptr,
    weight2_ptr,
    gate_out,
    channels,
    hidden,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write the gate of one sample."""
    sample = tl.program_id(0)
    vector = hidden_vector(mean_ptr, weight1_ptr, sample, channels, hidden, BLOCK_HIDDEN, BLOCK, ACCUMULATE)
    unit = tl.arange(0, BLOCK_HIDDEN)
    for first in range(0, channels, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        mask = (channel < channels)[:, None] & (unit < hidden)[None, :]
        weight = tl.load(weight2_ptr + channel[:, None] * hidden + unit[None, :], mask=mask, other=0.0)
        excited = tl.sum(weight.to(ACCUMULATE) * vector[None, :], axis=1)
        tl.store(gate_out + sample * channels + channel, 1 / (1 + tl.exp(-excited)), mask=channel < channels)


@triton.jit
def excitation_gradient_kernel(
    grad_ptr,
    gate_ptr,
    mean_ptr,
    weight1_ptr,
    weight2_ptr,
    grad_mean_out,
    hidden_out,
    grad_hidden_out,
    channels,
    hidden,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write the gradient of one sample's means, its hidden vector and the gradient before the ReLU."""
    sample = tl.program_id(0)
    vector = hidden_vector(mean_ptr, weight1_ptr, sample, channels, hidden, BLOCK_HIDDEN, BLOCK, ACCUMULATE)
    unit = tl.arange(0, BLOCK_HIDDEN)
    grad_vector = tl.zeros((BLOCK_HIDDEN,), dtype=ACCUMULATE)
    for first in range(0, channels, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        mask = (channel < channels)[:, None] & (unit < hidden)[None, :]
        weight = tl.load(weight2_ptr + channel[:, None] * hidden + unit[None, :], mask=mask, other=0.0)
        gate = tl.load(gate_ptr + sample * channels + channel, mask=channel < channels, other=0.0)
        grad = tl.load(grad_ptr + sample * channels + channel, mask=channel < channels, other=0.0)
        grad_vector += tl.sum(weight.to(ACCUMULATE) * (grad * gate * (1 - gate))[:, None], axis=0)
    grad_vector = tl.where(vector <= 0, 0.0, grad_vector)
    tl.store(hidden_out + sample * hidden + unit, vector, mask=unit < hidden)
    tl.store(grad_hidden_out + sample * hidden + unit, grad_vector, mask=unit < hidden)
    for first in range(0, channels, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        mask = (unit < hidden)[:, None] & (channel < channels)[None, :]
        weight = tl.load(weight1_ptr + unit[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        grad_mean = tl.sum(weight.to(ACCUMULATE) * grad_vector[:, None], axis=0)
        tl.store(grad_mean_out + sample * channels + channel, grad_mean, mask=channel < channels)


@triton.jit
def excitation_weight_gradient_kernel(
    grad_ptr,
    gate_ptr,
    mean_ptr,
    hidden_ptr,
    grad_hidden_ptr,
    grad_weight1_out,
    grad_weight2_out,
    samples,
    channels,
    hidden,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write a block of channels of dW1 (hidden, channels) and dW2 (channels, hidden), summed over samples in order."""
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    unit = tl.arange(0, BLOCK_HIDDEN)
    within = channel < channels
    grad_weight1 = tl.zeros((BLOCK_HIDDEN, BLOCK), dtype=ACCUMULATE)
    grad_weight2 = tl.zeros((BLOCK, BLOCK_HIDDEN), dtype=ACCUMULATE)
    for sample in range(samples):
        vector = tl.load(hidden_ptr + sample * hidden + unit, mask=unit < hidden, other=0.0)
        grad_vector = tl.load(grad_hidden_ptr + sample * hidden + unit, mask=unit < hidden, other=0.0)
        mean = tl.load(mean_ptr + sample * channels + channel, mask=within, other=0.0)
        gate = tl.load(gate_ptr + sample * channels + channel, mask=within, other=0.0)
        grad = tl.load(grad_ptr + sample * channels + channel, mask=within, other=0.0)
        grad_weight1 += grad_vector[:, None] * mean[None, :]
        grad_weight2 += (grad * gate * (1 - gate))[:, None] * vector[None, :]
    dtype: tl.constexpr = grad_weight1_out.dtype.element_ty
    mask1 = (unit < hidden)[:, None] & within[None, :]
    mask2 = within[:, None] & (unit < hidden)[None, :]
    tl.store(grad_weight1_out + unit[:, None] * channels + channel[None, :], grad_weight1.to(dtype), mask=mask1)
    tl.store(grad_weight2_out + channel[:, None] * hidden + unit[None, :], grad_weight2.to(dtype), mask=mask2)


def excitation(mean: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    """Return the gate (N, C); arguments are those of the operation."""
    gate = torch.empty_like(mean)
    samples, channels = mean.shape
    hidden = weight1.shape[0]
    launch(
        excitation_kernel,
        (samples,),
        mean,
        weight1,
        weight2,
        gate,
        channels,
        hidden,
        **_options(mean, hidden),
    )
    return gate


def excitation_backward(
    grad: Tensor, gate: Tensor, mean: Tensor, weight1: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of mean, W1 and W2; the hidden vector is computed once more."""
    samples, channels = mean.shape
    hidden = weight1.shape[0]
    grad_mean = torch.empty_like(mean)
    vector, grad_vector = mean.new_empty((2, samples, hidden))
    options = _options(mean, hidden)
    launch(
        excitation_gradient_kernel,
        (samples,),
        grad,
        gate,
        mean,
        weight1,
        weight2,
        grad_mean,
        vector,
        grad_vector,
        channels,
        hidden,
        **options,
    )
    grad_weight1, grad_weight2 = torch.empty_like(weight1), torch.empty_like(weight2)
    launch(
        excitation_weight_gradient_kernel,
        (cdiv(channels, _BLOCK),),
        grad,
        gate,
        mean,
        vector,
        grad_vector,
        grad_weight1,
        grad_weight2,
        samples,
        channels,
        hidden,
        **options,
    )
    return grad_mean, grad_weight1, grad_weight2


def _options(mean: Tensor, hidden: int) -> dict[str, Any]:
    return {
        "BLOCK_HIDDEN": next_power_of_2(hidden),
        "BLOCK": _BLOCK,
        "ACCUMULATE": accumulation(mean.dtype),
        "num_warps": 4,
    }
