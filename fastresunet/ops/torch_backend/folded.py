"""The folded network's convolutions from packed weights, as the kernels compute them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastresunet.ops.layout import as_image, as_pixels, channels_last
from fastresunet.ops.source import accumulation_dtype
from fastresunet.ops.torch_backend.excitation import excitation
from fastresunet.ops.torch_backend.read import read
from fastresunet.ops.torch_backend.taps import convolve, convolve_sources, spread


def folded_conv(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor,
    stride: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    sign: Tensor | None,
) -> Tensor:
    """Return the convolution; arguments are those of the operation."""
    dtype, first = data[0].dtype, 0
    output = as_image(bias).to(dtype)
    for x, vectors, rectified, up in zip(data, affine, relu, upsample, strict=True):
        section = weight[:, first : first + x.shape[1]]
        first += x.shape[1]
        h = read(x, _of_samples(vectors, x), rectified, dtype)
        if up:
            taps = section.unflatten(0, (2, 2, 2, 2)).permute(0, 1, 5, 4, 2, 3)
            y = spread(channels_last(F.conv2d(h, taps.flatten(0, 2), padding=1)), h.shape[2:], 3)
        else:
            y = convolve(h, _unpacked(section[:9]), None, stride, 1, False)
        output = output + y
    if residual is not None:
        output = output + residual
    if gate is not None:
        output = (output * (gate if gate_scale is None else gate * as_image(gate_scale))).to(dtype)
    if sign is not None:
        output = F.max_pool2d(output, 2) * as_image(sign).to(dtype)
    return channels_last(output)


def folded_excited_conv(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    weight: Tensor,
    bias: Tensor,
    side: list[Tensor],
    side_affine: list[Tensor],
    side_upsample: list[bool],
    side_weight: Tensor,
    side_stride: int,
    weight1: Tensor,
    weight2: Tensor,
    scale: Tensor,
    shift: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return convolution, gate and the readers' affines; arguments are those of the operation."""
    dtype = data[0].dtype
    beside = [read(x, vectors, False, dtype) for x, vectors in zip(side, side_affine, strict=True)]
    shortcut = convolve_sources(beside, side_weight[:, :, None, None].to(dtype), None, side_stride, 1, side_upsample)
    plain = [False] * len(data)
    output = folded_conv(data, affine, relu, plain, weight, bias, 1, shortcut, None, None, None)
    gate = excitation(as_pixels(output).mean(dim=1, dtype=accumulation_dtype(dtype)), weight1, weight2)
    scales = scale[:, None].to(gate.dtype) * gate
    vectors = torch.stack([torch.zeros_like(scales), scales, shift[:, None].to(gate.dtype).expand_as(scales)], dim=1)
    return output, gate, vectors


def folded_pyramid(data: Tensor, affine: Tensor, weight: Tensor, bias: Tensor, rates: list[int]) -> Tensor:
    """Return the sum of dilated convolutions; arguments are those of the operation."""
    h = read(data, affine, False, data.dtype)
    total = as_image(bias).to(data.dtype)
    for taps, rate in zip(weight, rates, strict=True):
        total = total + convolve(h, _unpacked(taps), None, 1, rate, False)
    return channels_last(total)


def _unpacked(taps: Tensor) -> Tensor:
    """Return (9, inputs, outputs) as (outputs, inputs, 3, 3)."""
    return taps.permute(2, 1, 0).unflatten(2, (3, 3))


def _of_samples(vectors: Tensor, x: Tensor) -> Tensor:
    """Return an affine (2, C) of all samples as that of each (3, N, C); others as they are."""
    if len(vectors) != 2:
        return vectors
    scale, shift = vectors
    return torch.stack([torch.zeros_like(scale), scale, shift])[:, None].expand(3, x.shape[0], -1)
