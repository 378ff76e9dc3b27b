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


@triton.jit
def pack_weight_kernel(
    weight_ptr,
    packed_out,
    inputs,
    outputs,
    first_upsampled,
    end_upsampled,
    TAPS: tl.constexpr,
    PARITIES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Write one slot of (slots, inputs, outputs), or (slots, outputs, inputs) if TRANSPOSED.

    The weight is (outputs, inputs, TAPS, TAPS).

    Inputs from ``first_upsampled`` to ``end_upsampled`` get slots (2 p + q) 4 + 2 a + b, the others their taps.
    """
    slot = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    out_channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    within = (channel < inputs)[:, None] & (out_channel < outputs)[None, :]
    row, column = slot // TAPS, slot % TAPS
    source = weight_ptr + (out_channel[None, :] * inputs + channel[:, None]) * (TAPS * TAPS)
    if TRANSPOSED:
        target = packed_out + (slot * outputs + out_channel[None, :]) * inputs + channel[:, None]
    else:
        target = packed_out + (slot * inputs + channel[:, None]) * outputs + out_channel[None, :]
    dtype: tl.constexpr = packed_out.dtype.element_ty
    if PARITIES:
        upsampled = (channel >= first_upsampled) & (channel < end_upsampled)
        p, q, a, b = slot // 8, slot // 4 % 2, slot // 2 % 2, slot % 2
        total = tl.zeros((BLOCK, BLOCK), dtype=ACCUMULATE)
        for k in tl.static_range(4):
            first, second = k // 2, k % 2
            wanted = ((first == 0) | (a != p)) & ((second == 0) | (b != q))
            tap = (a * (1 + p) + first) * TAPS + b * (1 + q) + second
            total += tl.load(source + tap, mask=within & upsampled[:, None] & wanted, other=0.0).to(ACCUMULATE)
        tl.store(target, total.to(dtype), mask=within & upsampled[:, None])
        within = within & (~upsampled)[:, None] & (slot < TAPS * TAPS)
    value = tl.load(source + row * TAPS + column, mask=within, other=0.0)
    tl.store(target, value.to(dtype), mask=within)


def pack_weight(
    weight: Tensor, channels: list[int], upsample: list[bool], dtype: torch.dtype, transposed: bool = False
) -> Tensor:
    """Return the packed weight (slots, inputs, outputs); slots that a source's channels do not have are undefined.

    A 1x1 weight is small, and read as it is: (1, outputs, inputs) in its own dtype, for both uses.

    Args:
        weight: (outputs, inputs, k, k), k = 1 or 3, of any floating dtype.
        channels: of each source, in the order of the inputs.
        upsample: whether each source is read at twice its resolution; such sources stand together.
        dtype: of the result; parity taps are summed in float32 at least and rounded once.
        transposed: return (slots, outputs, inputs), for the gradient of the inputs.
    """
    outputs, inputs, taps, _ = weight.shape
    if taps == 1:
        return weight.view(1, outputs, inputs)
    parities = any(upsample) and taps == 3
    first = sum(channels[: upsample.index(True)]) if parities else 0
    end = first + sum(c for c, up in zip(channels, upsample, strict=True) if up) if parities else 0
    slots = 16 if parities else taps * taps
    shape = (slots, outputs, inputs) if transposed else (slots, inputs, outputs)
    packed = weight.new_empty(shape, dtype=dtype)
    launch(
        pack_weight_kernel,
        (slots, cdiv(inputs, _BLOCK), cdiv(outputs, _BLOCK)),
        weight,
        packed,
        inputs,
        outputs,
        first,
        end,
        TAPS=taps,
        PARITIES=parities,
        TRANSPOSED=transposed,
        BLOCK=_BLOCK,
        ACCUMULATE=tl.float64 if weight.dtype == torch.float64 else tl.float32,
    )
    return packed
