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

from .kernel import kernel
from .launch import launch
from .rounding import cdiv

_BLOCK = 32
# Weights that one launch packs.
_AT_ONCE = 4


@triton.jit
def pack_slot(
    program,
    weight_ptr,
    packed_out,
    inputs,
    outputs,
    pitch,
    first_upsampled,
    end_upsampled,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write a block of one slot of (slots, inputs, pitch), or (slots, pitch, inputs) if TRANSPOSED.

    The weight is (outputs, inputs, 3, 3), its first output at ``packed_out``; ``pitch`` counts the outputs of all
    weights that are packed into one tensor. Inputs from ``first_upsampled`` to ``end_upsampled`` get slots
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
        target = packed_out + (slot * pitch + out_channel[None, :]) * inputs + channel[:, None]
    else:
        target = packed_out + (slot * inputs + channel[:, None]) * pitch + out_channel[None, :]
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


@kernel
def pack_weights_kernel(
    weight_ptr,
    packed_out,
    inputs,
    outputs,
    pitch,
    first_upsampled,
    end_upsampled,
    end,
    weight2_ptr,
    packed2_out,
    inputs2,
    outputs2,
    pitch2,
    first_upsampled2,
    end_upsampled2,
    end2,
    weight3_ptr,
    packed3_out,
    inputs3,
    outputs3,
    pitch3,
    first_upsampled3,
    end_upsampled3,
    end3,
    weight4_ptr,
    packed4_out,
    inputs4,
    outputs4,
    pitch4,
    first_upsampled4,
    end_upsampled4,
    end4,
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
            pitch,
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
                pitch2,
                first_upsampled2,
                end_upsampled2,
                TRANSPOSED,
                BLOCK,
                ACCUMULATE,
            )
    elif program < end3:
        if weight3_ptr is not None:
            pack_slot(
                program - end2,
                weight3_ptr,
                packed3_out,
                inputs3,
                outputs3,
                pitch3,
                first_upsampled3,
                end_upsampled3,
                TRANSPOSED,
                BLOCK,
                ACCUMULATE,
            )
    elif weight4_ptr is not None:
        pack_slot(
            program - end3,
            weight4_ptr,
            packed4_out,
            inputs4,
            outputs4,
            pitch4,
            first_upsampled4,
            end_upsampled4,
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
        if weight.shape[2] == 1:
            results.append(weight.contiguous().reshape(1, *weight.shape[:2]))
            continue
        packed = _new_packed(weight, weight.shape[0], doubled, dtype, transposed)
        results.append(packed)
        tasks.append(_task(weight, packed, weight.shape[0], counts, doubled))
    _launch_all(tasks, transposed)
    return results


def pack_branches(
    weights: list[Tensor], channels: list[int], upsample: list[bool], dtype: torch.dtype, transposed: bool = False
) -> Tensor:
    """Return the packed weights of branches that read the same sources, their outputs one after another.

    Arguments are those of ``pack_weights``, ``channels`` and ``upsample`` of the sources of every branch.
    """
    outputs, inputs, taps, _ = weights[0].shape
    if taps == 1:
        joined = weights[0] if len(weights) == 1 else torch.cat(weights)
        return joined.contiguous().reshape(1, len(weights) * outputs, inputs)
    pitch = len(weights) * outputs
    packed = _new_packed(weights[0], pitch, upsample, dtype, transposed)
    targets = packed.split(outputs, dim=1 if transposed else 2)
    tasks = [_task(*pair, pitch, channels, upsample) for pair in zip(weights, targets, strict=True)]
    _launch_all(tasks, transposed)
    return packed


def _new_packed(weight: Tensor, outputs: int, upsample: list[bool], dtype: torch.dtype, transposed: bool) -> Tensor:
    slots, inputs = 16 if any(upsample) else 9, weight.shape[1]
    return weight.new_empty((slots, outputs, inputs) if transposed else (slots, inputs, outputs), dtype=dtype)


# Arguments of one weight as the kernel takes them.
_Task = tuple[Tensor, Tensor, int, int, int, int, int]


def _task(weight: Tensor, target: Tensor, pitch: int, channels: list[int], upsample: list[bool]) -> _Task:
    outputs, inputs = weight.shape[:2]
    first = sum(channels[: upsample.index(True)]) if any(upsample) else 0
    last = first + sum(c for c, up in zip(channels, upsample, strict=True) if up)
    return weight.contiguous(), target, inputs, outputs, pitch, first, last


def _launch_all(tasks: list[_Task], transposed: bool) -> None:
    for start in range(0, len(tasks), _AT_ONCE):
        _launch(tasks[start : start + _AT_ONCE], transposed)


def _launch(tasks: list[_Task], transposed: bool) -> None:
    arguments: list[Tensor | int | None] = []
    end = 0
    for task in tasks:
        end += task[1].shape[0] * cdiv(task[2], _BLOCK) * cdiv(task[3], _BLOCK)
        arguments += [*task, end]
    arguments += [None, None, 0, 0, 0, 0, 0, end] * (_AT_ONCE - len(tasks))
    launch(
        pack_weights_kernel,
        (end,),
        *arguments,
        TRANSPOSED=transposed,
        BLOCK=_BLOCK,
        ACCUMULATE=tl.float64 if tasks[0][0].dtype == torch.float64 else tl.float32,
    )
