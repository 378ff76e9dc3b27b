"""Weights as the kernels read them: one (inputs, outputs) matrix a tap, in the features' dtype.

A 3x3 convolution of a map upsampled by 2 is four 2x2 convolutions of the small map. With taps t = -1, 0, 1 the output
row 2 i + p reads the small row floor((2 i + p + t) / 2): for p = 0 the rows i - 1, i, i, for p = 1 the rows i, i,
i + 1. So small tap a of parity p sums the taps from a (1 + p) on, one of them if a == p and two otherwise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .rounding import cdiv

_BLOCK = 32
# Weights that one launch packs.
_AT_ONCE = 3


@triton.jit
def pack_slot(
    program,
    weight_ptr,
    packed_out,
    inputs,
    outputs,
    first_upsampled,
    end_upsampled,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write a block of one slot of (slots, inputs, outputs), or (slots, outputs, inputs) if TRANSPOSED.

    The weight is (outputs, inputs, 3, 3). Inputs from ``first_upsampled`` to ``end_upsampled`` get slots
    (2 p + q) 4 + 2 a + b, the others their taps.
    """
    blocks = tl.cdiv(inputs, BLOCK)
    channel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    out_blocks = tl.cdiv(outputs, BLOCK)
    out_channel = program // blocks % out_blocks * BLOCK + tl.arange(0, BLOCK)
    slot = program // blocks // out_blocks
    within = (channel < inputs)[:, None] & (out_channel < outputs)[None, :]
    source = weight_ptr + (out_channel[None, :] * inputs + channel[:, None]) * 9
    if TRANSPOSED:
        target = packed_out + (slot * outputs + out_channel[None, :]) * inputs + channel[:, None]
    else:
        target = packed_out + (slot * inputs + channel[:, None]) * outputs + out_channel[None, :]
    dtype: tl.constexpr = packed_out.dtype.element_ty
    if end_upsampled > first_upsampled:
        upsampled = (channel >= first_upsampled) & (channel < end_upsampled)
        p, q, a, b = slot // 8, slot // 4 % 2, slot // 2 % 2, slot % 2
        total = tl.zeros((BLOCK, BLOCK), dtype=ACCUMULATE)
        for k in tl.static_range(4):
            first, second = k // 2, k % 2
            wanted = ((first == 0) | (a != p)) & ((second == 0) | (b != q))
            tap = (a * (1 + p) + first) * 3 + b * (1 + q) + second
            total += tl.load(source + tap, mask=within & upsampled[:, None] & wanted, other=0.0).to(ACCUMULATE)
        tl.store(target, total.to(dtype), mask=within & upsampled[:, None])
        within = within & (~upsampled)[:, None] & (slot < 9)
    value = tl.load(source + slot, mask=within, other=0.0)
    tl.store(target, value.to(dtype), mask=within)


@triton.jit
def pack_weights_kernel(
    weight_ptr,
    packed_out,
    inputs,
    outputs,
    first_upsampled,
    end_upsampled,
    end,
    weight2_ptr,
    packed2_out,
    inputs2,
    outputs2,
    first_upsampled2,
    end_upsampled2,
    end2,
    weight3_ptr,
    packed3_out,
    inputs3,
    outputs3,
    first_upsampled3,
    end_upsampled3,
    end3,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write a block of the weight that the program belongs to: of each the programs before its ``end``."""
    program = tl.program_id(0)
    if program < end:
        pack_slot(
            program,
            weight_ptr,
            packed_out,
            inputs,
            outputs,
            first_upsampled,
            end_upsampled,
            TRANSPOSED,
            BLOCK,
            ACCUMULATE,
        )
    elif program < end2:
        if weight2_ptr is not None:
            pack_slot(
                program - end,
                weight2_ptr,
                packed2_out,
                inputs2,
                outputs2,
                first_upsampled2,
                end_upsampled2,
                TRANSPOSED,
                BLOCK,
                ACCUMULATE,
            )
    elif weight3_ptr is not None:
        pack_slot(
            program - end2,
            weight3_ptr,
            packed3_out,
            inputs3,
            outputs3,
            first_upsampled3,
            end_upsampled3,
            TRANSPOSED,
            BLOCK,
            ACCUMULATE,
        )


def pack_weights(
    weights: list[Tensor],
    channels: list[list[int]],
    upsample: list[list[bool]],
    dtype: torch.dtype,
    transposed: bool = False,
) -> list[Tensor]:
    """Return packed weights (slots, inputs, outputs); slots that a source's channels do not have are undefined.

    A 1x1 weight is small, and read as it is: (1, outputs, inputs) in its own dtype, for both uses.

    Args:
        weights: (outputs, inputs, k, k) each, k = 1 or 3, all of one floating dtype.
        channels: of each source of each weight, in the order of the inputs.
        upsample: whether each source is read at twice its resolution; such sources of a weight stand together.
        dtype: of the result; parity taps are summed in float32 at least and rounded once.
        transposed: return (slots, outputs, inputs), for the gradient of the inputs.
    """
    results, tasks = [], []
    for weight, counts, doubled in zip(weights, channels, upsample, strict=True):
        outputs, inputs, taps, _ = weight.shape
        if taps == 1:
            results.append(weight.reshape(1, outputs, inputs))
            continue
        first = sum(counts[: doubled.index(True)]) if any(doubled) else 0
        last = first + sum(c for c, up in zip(counts, doubled, strict=True) if up)
        slots = 16 if any(doubled) else 9
        packed = weight.new_empty((slots, outputs, inputs) if transposed else (slots, inputs, outputs), dtype=dtype)
        results.append(packed)
        tasks.append((weight.contiguous(), packed, inputs, outputs, first, last))
    for start in range(0, len(tasks), _AT_ONCE):
        _launch(tasks[start : start + _AT_ONCE], transposed)
    return results


def _launch(tasks: list[tuple[Tensor, Tensor, int, int, int, int]], transposed: bool) -> None:
    arguments: list[Tensor | int | None] = []
    end = 0
    for task in tasks:
        end += len(task[1]) * cdiv(task[2], _BLOCK) * cdiv(task[3], _BLOCK)
        arguments += [*task, end]
    arguments += [None, None, 0, 0, 0, 0, end] * (_AT_ONCE - len(tasks))
    launch(
        pack_weights_kernel,
        (end,),
        *arguments,
        TRANSPOSED=transposed,
        BLOCK=_BLOCK,
        ACCUMULATE=tl.float64 if tasks[0][0].dtype == torch.float64 else tl.float32,
    )
