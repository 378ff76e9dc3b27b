"""Weights as the kernels read them: one (inputs, outputs) matrix a tap, for every set of taps that a kernel needs.

A 3x3 convolution of a map upsampled by 2 is four 2x2 convolutions of the small map. With taps t = -1, 0, 1 the output
row 2i + p reads the small row floor((2i + p + t) / 2): for p = 0 the rows i - 1, i, i, for p = 1 the rows i, i, i + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def parity_weight(weight: Tensor) -> Tensor:
    """Return the 2x2 weights (row parity, column parity, outputs, inputs, 2, 2) that act on the small map.

    Taps that meet are summed in float32 at least and rounded once.

    Args:
        weight: (outputs, inputs, 3, 3), acts on the upsampled map.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    rows = _pair(wide, dim=2)
    return _pair(rows, dim=4).transpose(0, 1).to(weight.dtype)


def parity_weight_adjoint(grad: Tensor) -> Tensor:
    """Return the gradient (outputs, inputs, 3, 3) of a weight, given that of ``parity_weight``."""
    rows = _unpair(grad.transpose(0, 1), dim=4)
    return _unpair(rows, dim=2)


def forward_weight(weight: Tensor, upsample: bool) -> Tensor:
    """Return (taps, inputs, outputs), or (4 parities, 4 taps, inputs, outputs) for an upsampled source.

    Args:
        weight: (outputs, inputs, k, k), k = 1 or 3.
        upsample: the source is read at twice its resolution.
    """
    if not upsample or weight.shape[2] == 1:
        return weight.flatten(2).permute(2, 1, 0).contiguous()
    return parity_weight(weight).flatten(4).flatten(0, 1).permute(0, 3, 2, 1).contiguous()


def forward_weight_adjoint(grad: Tensor, kernel_size: int, upsample: bool) -> Tensor:
    """Return the gradient (outputs, inputs, k, k) of the weight, given that of ``forward_weight``.

    Args:
        grad: (sets of taps * taps, inputs, outputs).
        kernel_size: k.
        upsample: as in ``forward_weight``; a 1x1 weight then has its gradient once for every parity.
    """
    inputs, outputs = grad.shape[1:]
    if kernel_size == 1:
        return grad.sum(dim=0).t().reshape(outputs, inputs, 1, 1)
    if not upsample:
        return grad.permute(2, 1, 0).reshape(outputs, inputs, kernel_size, kernel_size)
    return parity_weight_adjoint(grad.view(2, 2, 2, 2, inputs, outputs).permute(0, 1, 5, 4, 2, 3))


def input_gradient_weight(weight: Tensor, stride: int, upsample: bool) -> Tensor:
    """Return (sets of taps, taps, outputs, inputs) that turn the output's gradient into the source's.

    A stride-1 convolution has one set, the flipped taps; one of an upsampled source is a 4x4 (1x1: 2x2) convolution
    with stride 2; a stride-2 convolution has one set of 2x2 taps (1x1: one tap) for each parity of the source's pixel.

    Args:
        weight: (outputs, inputs, k, k), k = 1 or 3.
        stride: stride of the convolution.
        upsample: the source was read at twice its resolution.
    """
    outputs, inputs, kernel_size, _ = weight.shape
    by_tap = weight.permute(2, 3, 0, 1)
    if upsample and kernel_size == 1:
        return by_tap.expand(2, 2, -1, -1).reshape(1, 4, outputs, inputs).contiguous()
    if upsample:
        # The small row i receives from the output rows 2i - 1 .. 2i + 2; these are their (parity, tap).
        received = ((1, 1), (0, 1), (1, 0), (0, 0))
        small = parity_weight(weight)
        taps = [small[p, q, :, :, a, b] for p, a in received for q, b in received]
        return torch.stack(taps)[None]
    if stride == 2 and kernel_size == 1:
        nothing = torch.zeros_like(by_tap[0])
        return torch.stack([by_tap[0], nothing, nothing, nothing])
    if stride == 2:
        # The source's row 2i receives from the output row i; 2i + 1 from i and i + 1.
        nothing = torch.zeros_like(by_tap[0, 0])
        sent = {(0, 0): 1, (1, 0): 2, (1, 1): 0}
        sets = [
            torch.stack(
                [
                    by_tap[sent[p, a], sent[q, b]] if (p, a) in sent and (q, b) in sent else nothing
                    for a in (0, 1)
                    for b in (0, 1)
                ]
            )
            for p in (0, 1)
            for q in (0, 1)
        ]
        return torch.stack(sets)
    return by_tap.flip(0, 1).reshape(1, kernel_size**2, outputs, inputs).contiguous()


def _pair(taps: Tensor, dim: int) -> Tensor:
    """Sum three taps along ``dim`` to two, for either parity; the parity becomes the first dimension."""
    first, middle, last = taps.unbind(dim)
    return torch.stack([torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)])


def _unpair(grad: Tensor, dim: int) -> Tensor:
    """Adjoint of ``_pair``."""
    even, odd = (parity.unbind(dim) for parity in grad)
    return torch.stack([even[0] + odd[0], even[1] + odd[0], even[1] + odd[1]], dim)
