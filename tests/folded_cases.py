"""Operands of the folded network's operations, for interpreted and compiled kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastresunet.ops.layout import channels_last

NAMES = [
    "read-by-all-samples",
    "two-sources",
    "signed-maximum",
    "residual",
    "gated",
    "image-beside",
    "stride-2-beside",
    "upsampled-and-skip-beside",
    "pyramid",
    "one-class",
    "pyramid-beyond-the-map",
]
SAMPLES = 2


def folded_case(name: str, channels: int = 16, size: tuple[int, int] = (12, 10)) -> tuple[str, tuple[Any, ...]]:
    """Return an operation and its arguments in float64, values that every dtype has.

    Args:
        name: one of ``NAMES``.
        channels: of most images.
        size: rows and columns of the result of the convolution, even.
    """
    nothing, height, width = torch.empty(0).double(), *size
    image, small = _image(channels, height, width), _image(channels + 3, height // 2, width // 2)
    affine = torch.stack([_vectors(channels), 1 + _vectors(channels), _vectors(channels)])
    constant = torch.stack([1 + _vectors(channels)[0], _vectors(channels)[0]])
    bias, weight = _vectors(channels)[0], _weight(9, channels, channels)
    plain: tuple[Any, ...] = (None, None, None, None)
    one = ([image], [affine], [True], [False], weight, bias, 1)
    if name == "read-by-all-samples":
        return "folded_conv", (*one[:1], [constant], *one[2:], *plain)
    if name == "two-sources":
        up = torch.stack([1 + _vectors(channels + 3)[0], _vectors(channels + 3)[0]])
        both = _weight(16, 2 * channels + 3, channels)
        return "folded_conv", ([small, image], [up, affine], [True, True], [True, False], both, bias, 1, *plain)
    if name == "signed-maximum":
        return "folded_conv", (*one, None, None, None, (torch.arange(channels) % 3 - 1.0).double())
    if name == "residual":
        return "folded_conv", (*one, _image(channels, height, width), None, None, None)
    if name == "gated":
        gate = _image(channels, height, width)
        return "folded_conv", (*one[:1], [nothing], *one[2:], None, gate, _vectors(channels).abs(), None)
    if name.startswith("pyramid") or name == "one-class":
        outputs, rates = (1, [1, 3, 5]) if name == "one-class" else (channels + 1, [1, 2, 3])
        rates = [2, 40, 1] if name == "pyramid-beyond-the-map" else rates
        weights = torch.stack([_weight(9, channels, outputs) for _ in rates])
        weights[1:, 4] = 0
        return "folded_pyramid", (image, _vectors(channels)[None], weights, _vectors(outputs)[0], rates)
    side = {
        "image-beside": ([_image(3, height, width)], [nothing], [False], 1),
        "stride-2-beside": ([_image(channels, 2 * height - 1, 2 * width)], [_vectors(channels)[None]], [False], 2),
        "upsampled-and-skip-beside": ([small, image], [nothing, _vectors(channels)[None]], [True, False], 1),
    }[name]
    side_weight = _weight(1, channels, sum(x.shape[1] for x in side[0]))[0]
    excitation = (_weight(1, 2, channels)[0], _weight(1, channels, 2)[0])
    readers = (1 + _vectors(channels), _vectors(channels)) if name == "stride-2-beside" else (bias[:0, None],) * 2
    operands = ([_image(channels, height, width)], [nothing], [True], weight, bias)
    return "folded_excited_conv", (*operands, *side[:3], side_weight, side[3], *excitation, *readers)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Return images and weights in ``dtype``, vectors in float32 at least."""
    if isinstance(value, list | tuple):
        return type(value)(cast(one, dtype) for one in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4 and value.shape[0] == SAMPLES:
        return channels_last(value.to(dtype))
    # Of vectors there are at most three; a packed weight is (9, I, O) or (16, I, O), or has rates before that.
    weight = value.ndim == 4 or (value.ndim > 1 and value.shape[0] > 3)
    return value.to(dtype if weight else torch.promote_types(dtype, torch.float32))


def _image(channels: int, height: int, width: int) -> Tensor:
    return channels_last(torch.randn(SAMPLES, channels, height, width).bfloat16().double())


def _weight(taps: int, inputs: int, outputs: int) -> Tensor:
    return (torch.randn(taps, inputs, outputs) / (min(taps, 9) * inputs) ** 0.5).bfloat16().double()


def _vectors(channels: int) -> Tensor:
    return (torch.randn(SAMPLES, channels) / 4).bfloat16().double()
