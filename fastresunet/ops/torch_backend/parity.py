"""Weights of a 3x3 convolution of a map upsampled by 2, as four 2x2 convolutions of the small map.

With taps t = -1, 0, 1 the output row 2i + p reads the small row floor((2i + p + t) / 2): for p = 0 the rows i - 1, i,
i, for p = 1 the rows i, i, i + 1.
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


def _pair(taps: Tensor, dim: int) -> Tensor:
    """Sum three taps along ``dim`` to two, for either parity; the parity becomes the first dimension."""
    first, middle, last = taps.unbind(dim)
    return torch.stack([torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)])


def _unpair(grad: Tensor, dim: int) -> Tensor:
    """Adjoint of ``_pair``."""
    even, odd = (parity.unbind(dim) for parity in grad)
    return torch.stack([even[0] + odd[0], even[1] + odd[0], even[1] + odd[1]], dim)
