"""Second stages of the gradients' sums: over slabs for weights and biases, over tiles for affines."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import accumulation
from .launch import launch
from .rounding import cdiv

_BLOCK_SPLITS = 16
_BLOCK_ELEMENTS = 128
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


@triton.jit
def finish_weight_kernel(
    slab_ptr,
    bias_sum_ptr,
    grad_weight_out,
    grad_bias_out,
    splits,
    slots,
    channels,
    out_channels,
    first_input,
    inputs,
    bias_parts,
    TAPS: tl.constexpr,
    PARITIES: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write one tap of a section of the gradient (out_channels, inputs, TAPS, TAPS); after the last tap the bias.

    Slabs are (splits, slots, channels, out_channels). With PARITIES tap t took part in small tap (t + 1 - p) / 2 of
    parity p, see ``pack``; a 1x1 weight may have several slots, one for each parity it was used for.
    """
    tap = tl.program_id(0)
    size = channels * out_channels
    element = tl.program_id(1) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    if tap < TAPS * TAPS:
        total = tl.zeros((BLOCK_SPLITS, BLOCK_ELEMENTS), dtype=ACCUMULATE)
        for first in range(0, splits, BLOCK_SPLITS):
            split = first + tl.arange(0, BLOCK_SPLITS)
            mask = (split < splits)[:, None] & (element < size)[None, :]
            base = slab_ptr + split.to(tl.int64)[:, None] * slots * size + element[None, :]
            if PARITIES:
                for quarter in tl.static_range(4):
                    row_tap = (tap // TAPS + 1 - quarter // 2) // 2
                    column_tap = (tap % TAPS + 1 - quarter % 2) // 2
                    total += tl.load(base + (quarter * 4 + row_tap * 2 + column_tap) * size, mask=mask, other=0.0)
            elif TAPS == 1:
                for slot in range(slots):
                    total += tl.load(base + slot * size, mask=mask, other=0.0)
            else:
                total += tl.load(base + tap * size, mask=mask, other=0.0)
        channel, out_channel = element // out_channels, element % out_channels
        offset = (out_channel * inputs + first_input + channel) * (TAPS * TAPS) + tap
        value = tl.sum(total, axis=0).to(grad_weight_out.dtype.element_ty)
        tl.store(grad_weight_out + offset, value, mask=element < size)
    elif bias_sum_ptr is not None:
        bias = sum_parts_of(bias_sum_ptr, bias_parts, element, out_channels, BLOCK_SPLITS, ACCUMULATE)
        tl.store(grad_bias_out + element, bias.to(grad_bias_out.dtype.element_ty), mask=element < out_channels)


def finish_weight(
    slabs: Tensor,
    grad_weight: Tensor,
    first_input: int,
    parities: bool,
    bias_sums: Tensor | None,
    grad_bias: Tensor,
) -> None:
    """Sum slabs (splits, slots, channels, out_channels) into a section of ``grad_weight`` (out_channels, inputs, k, k).

    Args:
        slabs: partial sums, in float32 or float64.
        grad_weight: contiguous; its inputs from ``first_input`` on are written.
        first_input: where the section starts.
        parities: the slots are 2x2 taps for each of four parities.
        bias_sums: parts (parts, out_channels) of the bias gradient, or ``None``.
        grad_bias: (out_channels,), written where there are parts.
    """
    splits, slots, channels, out_channels = slabs.shape
    inputs, taps = grad_weight.shape[1:3]
    launch(
        finish_weight_kernel,
        (taps * taps + (bias_sums is not None), cdiv(channels * out_channels, _BLOCK_ELEMENTS)),
        slabs,
        bias_sums,
        grad_weight,
        grad_bias if bias_sums is not None else None,
        splits,
        slots,
        channels,
        out_channels,
        first_input,
        inputs,
        0 if bias_sums is None else bias_sums.shape[0],
        TAPS=taps,
        PARITIES=parities,
        BLOCK_SPLITS=_BLOCK_SPLITS,
        BLOCK_ELEMENTS=_BLOCK_ELEMENTS,
        ACCUMULATE=accumulation(slabs.dtype),
    )


@triton.jit
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


@triton.jit
def finish_affine_kernel(
    sum_ptr,
    affine_ptr,
    grad_affine_out,
    grad_side_out,
    samples,
    parts,
    channels,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    AFFINE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write the gradients of centre, scale and shift of one sample from (2 or 3, samples, parts, channels) sums.

    AFFINE is 3, 1 for a scale alone, or 0. The first sum is that of dz, the shift's; the second that of
    dz (u - center), the scale's; the third, where there is one, is that of the side's scale.
    """
    sample = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    within = channel < channels
    size = tl.cast(parts, tl.int64) * channels
    vector = sample * channels + channel
    if AFFINE > 0:
        scale_sum_ptr = sum_ptr + (samples + sample) * size
        scale_sum = sum_parts_of(scale_sum_ptr, parts, channel, channels, BLOCK_PARTS, ACCUMULATE)
        if AFFINE == 1:
            tl.store(grad_affine_out + vector, scale_sum, mask=within)
        else:
            shift = sum_parts_of(sum_ptr + sample * size, parts, channel, channels, BLOCK_PARTS, ACCUMULATE)
            scale = tl.load(affine_ptr + samples * channels + vector, mask=within, other=0.0)
            tl.store(grad_affine_out + vector, -scale * shift, mask=within)
            tl.store(grad_affine_out + samples * channels + vector, scale_sum, mask=within)
            tl.store(grad_affine_out + 2 * samples * channels + vector, shift, mask=within)
    if grad_side_out is not None:
        side_sum_ptr = sum_ptr + (2 * samples + sample) * size
        side_sum = sum_parts_of(side_sum_ptr, parts, channel, channels, BLOCK_PARTS, ACCUMULATE)
        tl.store(grad_side_out + vector, side_sum, mask=within)


def finish_affine(sums: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of an affine and of a side's scale (1, samples, channels), empty without a third sum.

    Args:
        sums: (2 or 3, samples, parts, channels), of dz, of dz (u - center), and of the side's gradient times u.
        affine: (3, samples, channels), (1, samples, channels) for a scale alone, or empty.
    """
    kinds, samples, parts, channels = sums.shape
    has_affine = affine.numel() > 0
    grad_affine = torch.empty_like(affine)
    grad_side = sums.new_empty((1, samples, channels) if kinds == 3 else 0)
    launch(
        finish_affine_kernel,
        (samples, cdiv(channels, _BLOCK_CHANNELS)),
        sums,
        affine if has_affine else None,
        grad_affine if has_affine else None,
        grad_side if kinds == 3 else None,
        samples,
        parts,
        channels,
        BLOCK_PARTS=_BLOCK_PARTS,
        BLOCK_CHANNELS=_BLOCK_CHANNELS,
        AFFINE=len(affine) if has_affine else 0,
        ACCUMULATE=accumulation(sums.dtype),
    )
    return grad_affine, grad_side
