"""Second stage of a convolution's gradients: sums over slabs for weights and bias, over tiles for affines."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .config import accumulation
from .kernel import kernel
from .launch import launch
from .rounding import cdiv, next_power_of_2
from .source_part import SourcePart
from .sum_parts import sum_parts_of

# Of slabs that are summed at a time.
_MOST_SPLITS = 16
_BLOCK_ELEMENTS = 128
_BLOCK_PARTS = 32
_BLOCK_CHANNELS = 16


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
def finish_source(
    program,
    grad_weight_out,
    grad_side_weight_out,
    slab_ptr,
    side_slab_ptr,
    sum_ptr,
    affine_ptr,
    grad_affine_out,
    grad_side_out,
    samples,
    out_channels,
    inputs,
    splits,
    slots,
    weight_programs,
    side_splits,
    side_slots,
    side_programs,
    parts,
    channels,
    first_input,
    PARITIES: tl.constexpr,
    AFFINE: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Do the share of one of a source's programs: of the weight, of the side's weight, or of the vectors."""
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
    elif program < weight_programs + side_programs:
        if side_slab_ptr is not None:
            finish_weight(
                program - weight_programs,
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
            program - weight_programs - side_programs,
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


@kernel
def finish_gradients_kernel(
    grad_weight_out,
    grad_side_weight_out,
    bias_sum_ptr,
    grad_bias_out,
    slab_ptr,
    side_slab_ptr,
    sum_ptr,
    affine_ptr,
    grad_affine_out,
    grad_side_out,
    slab2_ptr,
    side_slab2_ptr,
    sum2_ptr,
    affine2_ptr,
    grad_affine2_out,
    grad_side2_out,
    samples,
    out_channels,
    inputs,
    bias_parts,
    splits,
    slots,
    weight_programs,
    side_splits,
    side_slots,
    side_programs,
    parts,
    channels,
    first_input,
    programs,
    splits2,
    slots2,
    weight_programs2,
    side_splits2,
    side_slots2,
    side_programs2,
    parts2,
    channels2,
    first_input2,
    programs2,
    PARITIES: tl.constexpr,
    AFFINE: tl.constexpr,
    PARITIES2: tl.constexpr,
    AFFINE2: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Do the share of one program: of the first source, of the second, or of the bias, in this order."""
    program = tl.program_id(0)
    if program < programs:
        finish_source(
            program,
            grad_weight_out,
            grad_side_weight_out,
            slab_ptr,
            side_slab_ptr,
            sum_ptr,
            affine_ptr,
            grad_affine_out,
            grad_side_out,
            samples,
            out_channels,
            inputs,
            splits,
            slots,
            weight_programs,
            side_splits,
            side_slots,
            side_programs,
            parts,
            channels,
            first_input,
            PARITIES,
            AFFINE,
            TAPS,
            BLOCK_SPLITS,
            BLOCK_ELEMENTS,
            BLOCK_PARTS,
            BLOCK_CHANNELS,
            ACCUMULATE,
        )
    elif program < programs + programs2:
        if slab2_ptr is not None or side_slab2_ptr is not None or sum2_ptr is not None:
            finish_source(
                program - programs,
                grad_weight_out,
                grad_side_weight_out,
                slab2_ptr,
                side_slab2_ptr,
                sum2_ptr,
                affine2_ptr,
                grad_affine2_out,
                grad_side2_out,
                samples,
                out_channels,
                inputs,
                splits2,
                slots2,
                weight_programs2,
                side_splits2,
                side_slots2,
                side_programs2,
                parts2,
                channels2,
                first_input2,
                PARITIES2,
                AFFINE2,
                TAPS,
                BLOCK_SPLITS,
                BLOCK_ELEMENTS,
                BLOCK_PARTS,
                BLOCK_CHANNELS,
                ACCUMULATE,
            )
    elif bias_sum_ptr is not None:
        channel = (program - programs - programs2) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
        bias = sum_parts_of(bias_sum_ptr, bias_parts, channel, out_channels, BLOCK_SPLITS, ACCUMULATE)
        tl.store(grad_bias_out + channel, bias.to(grad_bias_out.dtype.element_ty), mask=channel < out_channels)


def finish_gradients(
    parts: list[SourcePart],
    bias_sums: Tensor | None,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_side_weight: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Write the gradients of weights and bias, return those of each source's affine and of its side's scale.

    What is not wanted is empty.

    Args:
        parts: partial sums of one or two sources, in float32 or float64.
        bias_sums: parts (parts, out_channels) of the bias gradient.
        grad_weight: (branches out_channels, inputs, k, k), contiguous.
        grad_bias: (out_channels,).
        grad_side_weight: (out_channels, inputs, 1, 1), contiguous.
    """
    grad_affine, grad_side = [], []
    for part in parts:
        affine, side_affine, has_vectors = part.source.affine, part.source.side_affine, part.vectors is not None
        grad_affine.append(affine.new_empty(affine.shape if has_vectors else 0))
        grad_side.append(side_affine.new_empty(side_affine.shape if has_vectors else 0))
    sums = [x for part in parts for x in (part.slabs, part.side_slabs, part.vectors) if x is not None]
    if not sums:
        return grad_affine, grad_side
    taps = grad_weight.shape[2] if grad_weight.numel() else 0
    outputs = next((x.shape[4] for x in sums if x.ndim == 5), 0)
    inputs = sum(part.source.data.shape[1] for part in parts)
    used = [_arguments(part, taps, *grads) for part, *grads in zip(parts, grad_affine, grad_side, strict=True)]
    pointers, sizes, constants = used[0]
    pointers2, sizes2, constants2 = used[1] if len(used) == 2 else _no_arguments(*used[0])
    bias_programs = 0 if bias_sums is None else cdiv(outputs, _BLOCK_ELEMENTS)
    splits = max([x.shape[1] for x in sums if x.ndim == 5], default=1)
    launch(
        finish_gradients_kernel,
        (sizes[-1] + sizes2[-1] + bias_programs,),
        grad_weight,
        grad_side_weight,
        bias_sums,
        grad_bias,
        *pointers,
        *pointers2,
        parts[0].source.data.shape[0],
        outputs,
        inputs,
        0 if bias_sums is None else len(bias_sums),
        *sizes,
        *sizes2,
        **constants,
        **{f"{name}2": value for name, value in constants2.items()},
        TAPS=taps,
        BLOCK_SPLITS=min(_MOST_SPLITS, next_power_of_2(splits)),
        BLOCK_ELEMENTS=_BLOCK_ELEMENTS,
        BLOCK_PARTS=_BLOCK_PARTS,
        BLOCK_CHANNELS=_BLOCK_CHANNELS,
        ACCUMULATE=accumulation(sums[0].dtype),
    )
    return grad_affine, grad_side


_Arguments = tuple[tuple[Tensor | None, ...], tuple[int, ...], dict[str, Any]]


def _arguments(part: SourcePart, taps: int, grad_affine: Tensor, grad_side: Tensor) -> _Arguments:
    """Return a source's pointers, its sizes with the number of its programs last, and its compile-time constants."""
    slabs, side_slabs, vectors, channels = part.slabs, part.side_slabs, part.vectors, part.source.data.shape[1]
    affine = part.source.affine
    weight_programs = side_programs = vector_programs = 0
    if slabs is not None:
        weight_programs = slabs.shape[0] * taps * taps * cdiv(channels * slabs.shape[4], _BLOCK_ELEMENTS)
    if side_slabs is not None:
        side_programs = cdiv(channels * side_slabs.shape[4], _BLOCK_ELEMENTS)
    if vectors is not None:
        vector_programs = vectors.shape[1] * cdiv(channels, _BLOCK_CHANNELS)
    has_affine, has_side = vectors is not None and affine.numel() > 0, grad_side.numel() > 0
    return (
        (
            slabs,
            side_slabs,
            vectors,
            affine if has_affine else None,
            grad_affine if has_affine else None,
            grad_side if has_side else None,
        ),
        (
            *((0, 0) if slabs is None else slabs.shape[1:3]),
            weight_programs,
            *((0, 0) if side_slabs is None else side_slabs.shape[1:3]),
            side_programs,
            0 if vectors is None else vectors.shape[2],
            channels,
            part.source.first_input,
            weight_programs + side_programs + vector_programs,
        ),
        {
            "PARITIES": part.source.read.upsample and part.source.read.kernel_size == 3,
            "AFFINE": affine.shape[0] if has_affine else 0,
        },
    )


def _no_arguments(pointers: tuple[Any, ...], sizes: tuple[int, ...], constants: dict[str, Any]) -> _Arguments:
    """Return those of a second source where there is none."""
    return (None,) * len(pointers), (0,) * len(sizes), dict.fromkeys(constants)
