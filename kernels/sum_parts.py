"""Sums over parts that programs left, in a fixed order."""

from __future__ import annotations

import torch
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
def sum_parts_of(parts_ptr, parts, channel, channels, BLOCK_PARTS: tl.constexpr, ACCUMULATE: tl.constexpr):
    """Return the sum (BLOCK_CHANNELS,) over the parts of (parts, channels)."""
    total = tl.zeros((BLOCK_PARTS, channel.shape[0]), dtype=ACCUMULATE)
    for first in range(0, parts, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        mask = (part < parts)[:, None] & (channel < channels)[None, :]
        total += tl.load(parts_ptr + part[:, None] * channels + channel[None, :], mask=mask, other=0.0)
    return tl.sum(total, axis=0)


@kernel
def sum_parts_kernel(
    parts_ptr,
    total_out,
    parts,
    channels,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Sum (groups, parts, channels) over the parts of one group and a block of channels."""
    group = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    base = parts_ptr + group.to(tl.int64) * parts * channels
    value = sum_parts_of(base, parts, channel, channels, BLOCK_PARTS, ACCUMULATE).to(total_out.dtype.element_ty)
    tl.store(total_out + group * channels + channel, value, mask=channel < channels)


def sum_parts(partial: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sums (groups, channels) over the parts of (groups, parts, channels), in a fixed order.

    Args:
        partial: partial sums, in float32 or float64.
        dtype: of the result.
    """
    groups, parts, channels = partial.shape
    total = partial.new_empty((groups, channels), dtype=dtype)
    launch(
        sum_parts_kernel,
        (groups, cdiv(channels, _BLOCK_CHANNELS)),
        partial,
        total,
        parts,
        channels,
        BLOCK_PARTS=_BLOCK_PARTS,
        BLOCK_CHANNELS=_BLOCK_CHANNELS,
        ACCUMULATE=accumulation(partial.dtype),
    )
    return total
