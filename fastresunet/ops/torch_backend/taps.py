"""Convolution of one source, with nearest x2 upsampling turned into work on the small map.

A 3x3 convolution of a map upsampled by 2 is four 2x2 convolutions of the small map, see ``parity``: 4 taps do the work
of 9. A 1x1 convolution commutes with the upsampling.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastresunet.ops.layout import channels_last, empty_image
from fastresunet.ops.torch_backend.parity import parity_weight, parity_weight_adjoint


def convolve_sources(
    activated: list[Tensor], weight: Tensor, bias: Tensor | None, stride: int, dilation: int, upsample: list[bool]
) -> Tensor:
    """Convolve activated sources as if they were concatenated along channels: a sum over slices of the weight."""
    sections = weight.split([h.shape[1] for h in activated], dim=1)
    first, *others = zip(activated, sections, upsample, strict=True)
    total = convolve(first[0], first[1], bias, stride, dilation, first[2])
    for h, section, up in others:
        total += convolve(h, section, None, stride, dilation, up)
    return total


def convolve_sources_backward(
    grad: Tensor,
    activated: list[Tensor],
    weight: Tensor,
    stride: int,
    dilation: int,
    upsample: list[bool],
    needs: tuple[bool, bool],
) -> tuple[list[Tensor], Tensor]:
    """Return the gradients of every activated source and of the weight; ``needs`` as in ``convolve_backward``."""
    sections = weight.split([h.shape[1] for h in activated], dim=1)
    gradients = [
        convolve_backward(grad, h, section, stride, dilation, up, needs)
        for h, section, up in zip(activated, sections, upsample, strict=True)
    ]
    if not needs[1]:
        return [grad_h for grad_h, _ in gradients], weight.new_empty(0)
    # Contiguous whatever layout the slices have: parameters expect gradients of their own strides.
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    for target, (_, section) in zip(grad_weight.split([h.shape[1] for h in activated], dim=1), gradients, strict=True):
        target.copy_(section)
    return [grad_h for grad_h, _ in gradients], grad_weight


def convolve(h: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, upsample: bool) -> Tensor:
    """Convolve one activated source with "same" padding, reading it at twice its resolution if ``upsample``."""
    kernel_size = weight.shape[2]
    if upsample:
        small = F.conv2d(h, _small_weight(weight), padding=kernel_size // 2)
        y = spread(channels_last(small), h.shape[2:], kernel_size)
        return y if bias is None else y.add_(bias[:, None, None])
    if kernel_size == 1:
        return channels_last(F.conv2d(_every(h, stride), weight, bias))
    return channels_last(F.conv2d(h, weight, bias, stride, dilation, dilation))


def convolve_backward(
    grad: Tensor, h: Tensor, weight: Tensor, stride: int, dilation: int, upsample: bool, needs: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``h`` and ``weight``; ``needs`` says which of them is wanted, the other one is empty."""
    kernel_size = weight.shape[2]
    if upsample:
        grad_h, grad_weight = _conv2d_backward(
            _collect(grad, kernel_size), h, _small_weight(weight), 1, kernel_size // 2, 1, needs
        )
        if needs[1]:
            grad_weight = _small_weight_adjoint(grad_weight, kernel_size)
    elif kernel_size == 1:
        grad_h, grad_weight = _conv2d_backward(grad, _every(h, stride), weight, 1, 0, 1, needs)
        if needs[0] and stride > 1:
            grad_read, grad_h = grad_h, torch.zeros_like(h)
            grad_h[:, :, ::stride, ::stride] = grad_read
    else:
        grad_h, grad_weight = _conv2d_backward(grad, h, weight, stride, dilation, dilation, needs)
    return (
        channels_last(grad_h) if needs[0] else h.new_empty(0),
        grad_weight if needs[1] else h.new_empty(0),
    )


def _conv2d_backward(
    grad: Tensor, h: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, needs: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    grad_h, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, h, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], 1, [*needs, False]
    )
    return grad_h, grad_weight


def _every(h: Tensor, stride: int) -> Tensor:
    """Return the pixels a strided 1x1 convolution reads.

    Taking them first is less work, and oneDNN's weight gradient of a strided 1x1 convolution in channels-last layout
    writes out of bounds for some odd batch sizes (seen with torch 2.14.1 on AVX-512).
    """
    return h if stride == 1 else channels_last(h[:, :, ::stride, ::stride])


def _small_weight(weight: Tensor) -> Tensor:
    """Map (O, I, 3, 3) to the weights (4 O, I, 2, 2) of the four parities; a 1x1 weight stays as it is."""
    return weight if weight.shape[2] == 1 else parity_weight(weight).flatten(0, 2)


def _small_weight_adjoint(grad: Tensor, kernel_size: int) -> Tensor:
    return grad if kernel_size == 1 else parity_weight_adjoint(grad.unflatten(0, (2, 2, -1)))


def _parities(y: Tensor, channels: int) -> Tensor:
    """View (N, C, 2H, 2W) in channels-last layout as (N, H, W, row parity, column parity, C)."""
    samples, _, height, width = y.shape
    rows = y.permute(0, 2, 3, 1).view(samples, height // 2, 2, width // 2, 2, channels)
    return rows.permute(0, 1, 3, 2, 4, 5)


def spread(small: Tensor, size: torch.Size, kernel_size: int) -> Tensor:
    """Place the small convolution's results at the output pixels.

    For 3x3, ``small`` is (N, 4C, H + 1, W + 1), padded on all sides; output row 2i + p is row i + p of its parity p.
    """
    height, width = size
    parts = 1 if kernel_size == 1 else 4
    channels = small.shape[1] // parts
    y = empty_image(small, channels, 2 * height, 2 * width)
    target, pixels = _parities(y, channels), small.permute(0, 2, 3, 1)
    if parts == 1:
        target.copy_(pixels[:, :, :, None, None])
        return y
    pixels = pixels.unflatten(3, (2, 2, channels))
    for p in (0, 1):
        for q in (0, 1):
            target[:, :, :, p, q] = pixels[:, p : p + height, q : q + width, p, q]
    return y


def _collect(grad: Tensor, kernel_size: int) -> Tensor:
    """Adjoint of ``spread``."""
    samples, channels, full_height, full_width = grad.shape
    height, width = full_height // 2, full_width // 2
    source = _parities(channels_last(grad), channels)
    if kernel_size == 1:
        return source.sum(dim=(3, 4)).permute(0, 3, 1, 2)
    small = grad.new_empty(samples, height + 1, width + 1, 2, 2, channels)
    for p, border in ((0, height), (1, 0)):
        small[:, border, :, p].zero_()
    for q, border in ((0, width), (1, 0)):
        small[:, :, border, :, q].zero_()
    for p in (0, 1):
        for q in (0, 1):
            small[:, p : p + height, q : q + width, p, q] = source[:, :, :, p, q]
    return small.flatten(3).permute(0, 3, 1, 2)
