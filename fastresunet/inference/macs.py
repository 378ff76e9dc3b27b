"""Count the multiply-accumulates that a module executes: those of every convolution and matrix product it calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates, for a whole batch.

    Attributes:
        inside: products of a weight and a pixel of the image. A weight that is 0 counts.
        padded: products of a weight and a pixel of the zero padding; the libraries for convolutions skip most of them.
    """

    inside: int = 0
    padded: int = 0

    def __add__(self, other: MacCount) -> MacCount:
        return MacCount(self.inside + other.inside, self.padded + other.padded)


@torch.inference_mode(False)  # in which operations are not told apart
@torch.no_grad()
def count_macs(network: nn.Module, image: Tensor) -> MacCount:
    """Run a network once and count its multiply-accumulates.

    Args:
        network: any module that computes with PyTorch's own operations.
        image: its input.

    Returns:
        The counts; element-wise work is not in them.
    """
    counting = _Counting()
    with counting:
        network(image)
    return counting.count


def operation_macs(operation: OpOverload, arguments: Sequence[Any], result: Any) -> MacCount:
    """Return the multiply-accumulates of one call; none for what is no convolution and no matrix product.

    Args:
        operation: the ``torch.ops.aten`` overload that was called.
        arguments: its positional arguments.
        result: what it returned.
    """
    if operation is _aten.convolution.default:
        return _convolution_macs(result, *arguments)
    if operation in (_aten.mm.default, _aten.bmm.default):
        return MacCount(inside=result.numel() * arguments[0].shape[-1])
    if operation in (_aten.addmm.default, _aten.baddbmm.default):
        return MacCount(inside=result.numel() * arguments[1].shape[-1])
    return MacCount()


def _convolution_macs(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> MacCount:
    # Weights of a convolution are (O, I / groups, ...), of a transposed one (I, O / groups, ...): either way one
    # product for each sample, pair of channels, kernel position and pixel of the smaller map.
    channels = x.shape[0] * weight.shape[0] * weight.shape[1]
    anchors, targets = (x.shape[2:], y.shape[2:]) if transposed else (y.shape[2:], x.shape[2:])
    inside = everything = channels
    for axis, size in enumerate(weight.shape[2:]):
        positions = [
            anchor * stride[axis] - padding[axis] + tap * dilation[axis]
            for anchor in range(anchors[axis])
            for tap in range(size)
        ]
        inside *= sum(0 <= position < targets[axis] for position in positions)
        everything *= len(positions)
    return MacCount(inside, everything - inside)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = MacCount()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), named: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        self.count += operation_macs(function, arguments, result)
        return result
