"""Count the multiply-accumulates that a module executes: those of every convolution and matrix product it calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


@dataclass
class MacCount:
    """Multiply-accumulates of one call, for the whole batch.

    Attributes:
        inside: products of a weight and a pixel of the image. A weight that is 0 counts.
        padded: products of a weight and a pixel of the zero padding; the libraries for convolutions skip most of them.
    """

    inside: int = 0
    padded: int = 0


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


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = MacCount()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), named: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        if function is _aten.convolution.default:
            self._add_convolution(result, *arguments)
        elif function in (_aten.mm.default, _aten.bmm.default):
            self.count.inside += result.numel() * arguments[0].shape[-1]
        elif function in (_aten.addmm.default, _aten.baddbmm.default):
            self.count.inside += result.numel() * arguments[1].shape[-1]
        return result

    def _add_convolution(
        self,
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
    ) -> None:
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
        self.count.inside += inside
        self.count.padded += everything - inside
