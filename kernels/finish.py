"""Second stage of the gradients that one source gives: sums over slabs for weights and bias, over tiles for affines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import accumulation
from .launch import launch
from .rounding import cdiv
from .sum_parts import sum_parts_of

_BLOCK_SPLITS = 16
_BLOCK_ELEMENTS = 128
_BLOCK_PARTS = 32
_BLOCK_CHANNELS = 16


@dataclass(frozen=True)
class GradientSums:
    """What the programs of a source's gradients left; ``None`` where that gradient is not wanted.

    Attributes:
        slabs: of the weight (branches, splits, slots, channels, out_channels).
        bias: parts (parts, out_channels) of the bias gradient.
        side_slabs: of the side's weight, as ``slabs``.
        vectors: (2 or 3, samples, parts, channels), of dz, of dz (u - center), and of the side's gradient times u.
    """

    slabs: Tensor | None
    bias: Tensor | None
    side_slabs: Tensor | None
    vectors: Tensor | None


@triton.jit
def finish_weight(
    program,
    slab_ptr,
    grad_weight_out,
    splits,
    slots,
    channels,
    out_channels,
    first_input,
    inputs,
    TAPS: tl.constexpr,
    PARITIES: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write a block of one tap of one branch of a section of the gradient (branches out_channels, inputs, TAPS, TAPS).

    Slabs are (branches, splits, slots, channels, out_channels). With PARITIES tap t took part in small tap
    (t + 1 - p) / 2 of parity p, see ``pack``; a 1x1 weight may have several slots, one for each parity it was used for.
    """
    size = channels * out_channels
    blocks = tl.cdiv(size, BLOCK_ELEMENTS)
    element = program % blocks * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    tap = program // blocks % (TAPS * TAPS)
    branch = program // blocks // (TAPS * TAPS)
    slab_ptr += branch.to(tl.int64) * splits * slots * size
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
    channel, out_channel = element // out_channels, branch * out_channels + element % out_channels
    offset = (out_channel * inputs + first_input + channel) * (TAPS * TAPS) + tap
    value = tl.sum(total, axis=0).to(grad_weight_out.dtype.element_ty)
    tl.store(grad_weight_out + offset, value, mask=element < size)


@triton.jit
def finish_affine(
    program,
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
    """Write a block of the gradients of centre, scale and shift of one sample, and of the side's scale.

    AFFINE is 3, 1 for a scale alone, or 0. The first of the (2 or 3, samples, parts, channels) sums is that of dz, the
    shift's; the second that of dz (u - center), the scale's; the third that of the side's scale.
    """
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    sample = program // blocks
    channel = program % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
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


@triton.jit
def finish_gradients_kernel(
    slab_ptr,
    bias_sum_ptr,
    side_slab_ptr,
    sum_ptr,
    affine_ptr,
    grad_weight_out,
    grad_bias_out,
    grad_side_weight_out,
    grad_affine_out,
    grad_side_out,
    splits,
    slots,
    bias_parts,
    side_splits,
    side_slots,
    samples,
    parts,
    channels,
    out_channels,
    first_input,
    inputs,
    weight_programs,
    bias_programs,
    side_programs,
    TAPS: tl.constexpr,
    PARITIES: tl.constexpr,
    AFFINE: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Do the share of one program: of the weight, the bias, the side's weight, or the vectors, in this order."""
    program = tl.program_id(0)
    if program < weight_programs:
        if slab_ptr is not None:
            finish_weight(
                program,
                slab_ptr,
                grad_weight_out,
                splits,
                slots,
                channels,
                out_channels,
                first_input,
                inputs,
                TAPS,
                PARITIES,
                BLOCK_SPLITS,
                BLOCK_ELEMENTS,
                ACCUMULATE,
            )
    elif program < weight_programs + bias_programs:
        if bias_sum_ptr is not None:
            channel = (program - weight_programs) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
            bias = sum_parts_of(bias_sum_ptr, bias_parts, channel, out_channels, BLOCK_SPLITS, ACCUMULATE)
            value = bias.to(grad_bias_out.dtype.element_ty)
            tl.store(grad_bias_out + channel, value, mask=channel < out_channels)
    elif program < weight_programs + bias_programs + side_programs:
        if side_slab_ptr is not None:
            finish_weight(
                program - weight_programs - bias_programs,
                side_slab_ptr,
                grad_side_weight_out,
                side_splits,
                side_slots,
                channels,
                out_channels,
                first_input,
                inputs,
                1,
                False,
                BLOCK_SPLITS,
                BLOCK_ELEMENTS,
                ACCUMULATE,
            )
    elif sum_ptr is not None:
        finish_affine(
            program - weight_programs - bias_programs - side_programs,
            sum_ptr,
            affine_ptr,
            grad_affine_out,
            grad_side_out,
            samples,
            parts,
            channels,
            BLOCK_PARTS,
            BLOCK_CHANNELS,
            AFFINE,
            ACCUMULATE,
        )


def finish_gradients(
    sums: GradientSums,
    affine: Tensor,
    parities: bool,
    first_input: int,
    inputs: int,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    grad_side_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Write sections of the weights' gradients and the bias gradient, return those of the affine and the side's scale.

    The latter two are empty where there are no ``vectors``, or not three.

    Args:
        sums: partial sums, in float32 or float64.
        affine: (3, samples, channels), (1, samples, channels) for a scale alone, or empty.
        parities: the weight's slots are 2x2 taps for each of four parities.
        first_input: where the sections start.
        inputs: of the weights.
        grad_weight: (branches out_channels, inputs, k, k), contiguous, written where there are slabs.
        grad_bias: (out_channels,), written where there are parts.
        grad_side_weight: (out_channels, inputs, 1, 1), contiguous, written where there are slabs.
    """
    slabs, bias, side_slabs, vectors = sums.slabs, sums.bias, sums.side_slabs, sums.vectors
    weight_programs = bias_programs = side_programs = vector_programs = taps = 0
    channels = out_channels = samples = parts = 0
    grad_affine, grad_side = affine.new_empty(0), affine.new_empty(0)
    if slabs is not None and grad_weight is not None:
        taps, (channels, out_channels) = grad_weight.shape[2], slabs.shape[3:]
        weight_programs = slabs.shape[0] * taps * taps * cdiv(channels * out_channels, _BLOCK_ELEMENTS)
    if bias is not None:
        bias_programs = cdiv(out_channels, _BLOCK_ELEMENTS)
    if side_slabs is not None:
        channels, out_channels = side_slabs.shape[3:]
        side_programs = cdiv(channels * out_channels, _BLOCK_ELEMENTS)
    if vectors is not None:
        kinds, samples, parts, channels = vectors.shape
        vector_programs = samples * cdiv(channels, _BLOCK_CHANNELS)
        grad_affine = torch.empty_like(affine)
        if kinds == 3:
            grad_side = vectors.new_empty((1, samples, channels))
    programs = weight_programs + bias_programs + side_programs + vector_programs
    given = [x for x in (slabs, bias, side_slabs, vectors) if x is not None]
    if given:
        launch(
            finish_gradients_kernel,
            (programs,),
            slabs,
            bias,
            side_slabs,
            vectors,
            affine if affine.numel() else None,
            grad_weight,
            grad_bias,
            grad_side_weight,
            grad_affine if grad_affine.numel() else None,
            grad_side if grad_side.numel() else None,
            *(slabs.shape[1:3] if slabs is not None else (0, 0)),
            0 if bias is None else len(bias),
            *(side_slabs.shape[1:3] if side_slabs is not None else (0, 0)),
            samples,
            parts,
            channels,
            out_channels,
            first_input,
            inputs,
            weight_programs,
            bias_programs,
            side_programs,
            TAPS=taps,
            PARITIES=parities,
            AFFINE=len(affine) if affine.numel() else 0,
            BLOCK_SPLITS=_BLOCK_SPLITS,
            BLOCK_ELEMENTS=_BLOCK_ELEMENTS,
            BLOCK_PARTS=_BLOCK_PARTS,
            BLOCK_CHANNELS=_BLOCK_CHANNELS,
            ACCUMULATE=accumulation(given[0].dtype),
        )
    return grad_affine, grad_side
