"""2x2 max pooling that remembers the winner in one byte."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastresunet.ops.layout import channels_last, empty_image


def _windows(x: Tensor) -> list[Tensor]:
    """Return the four pixels of each 2x2 window, in reading order, as strided views; an odd last row is left out."""
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    return [x[:, :, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)]


def max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 2x2 maximum and the position (0..3, first one on ties) of each maximum in its window, as uint8."""
    pooled = F.max_pool2d(x, kernel_size=2)
    first, second, third = ((window != pooled).view(torch.uint8) for window in _windows(x)[:3])
    index = first * (1 + second * (1 + third))
    return channels_last(pooled), channels_last(index)


def max_pool_backward(grad: Tensor, index: Tensor, height: int, width: int) -> Tensor:
    """Return the gradient (N, C, height, width) of the map that was pooled."""
    spread = empty_image(grad, grad.shape[1], height, width)
    if height % 2 or width % 2:
        spread.zero_()
    for position, window in enumerate(_windows(spread)):
        window.copy_(torch.where(index == position, grad, 0))
    return spread
