"""The convolutions of the folded network: each a module with its own copy of the folded weights.

``fused`` computes the same from the same parameters in Triton kernels. The parameters never require gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Features(NamedTuple):
    """The features ``data * gate``: a raw convolution output (N, C, H, W) and the excitation (N, C, 1, 1) or none."""

    data: Tensor
    gate: Tensor | None = None

    def to_tensor(self) -> Tensor:
        """Return the features themselves."""
        return self.data if self.gate is None else self.data * self.gate


class Convolution(nn.Module):
    """``y = conv(read(x)) + bias``, ``read`` being ``relu(x * scale + shift)`` or nothing.

    Args:
        weight: (O, I, k, k) in float64, k = 1 or 3.
        bias: (O) in float64.
        affine: scale and shift (I) in float64 of the BatchNorm before the ReLU; None reads the features as they are.
        stride: of the convolution.
        pads_end_only: pad with one row and column of zeros after the image and none before, as TensorFlow does for
            k = 3 and stride 2; otherwise with k // 2 on each side.
        dtype: of the module.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        affine: tuple[Tensor, Tensor] | None = None,
        stride: int = 1,
        pads_end_only: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.weight, self.bias = _constant(weight, dtype), _constant(bias, dtype)
        self.scale, self.shift = _affine(affine, dtype)
        self.stride, self.pads_end_only = stride, pads_end_only
        self.padding = 0 if pads_end_only else weight.shape[2] // 2

    def forward(self, x: Features, residual: Tensor | None = None) -> Tensor:
        """Return (N, O, ceil(H / stride), ceil(W / stride)), ``residual`` of that shape added."""
        read = _read(x, self.scale, self.shift)
        if self.pads_end_only:
            read = F.pad(read, (0, 1, 0, 1))
        y = F.conv2d(read, self.weight, self.bias, self.stride, self.padding)
        return y if residual is None else y + residual


class UpsampledConvolution(nn.Module):
    """The convolution of a map upsampled by 2 (nearest), computed from the small map.

    A 1x1 convolution commutes with upsampling; a 3x3 convolution is four 2x2 convolutions of the small map, written as
    one transposed convolution (``algebra.transposed_weight``): 16 products for each small pixel in place of 36.

    Args:
        weight: (O, I, 1, 1), or (I, O, 4, 4) transposed, in float64.
        affine: scale and shift (I) of the BatchNorm before the ReLU; None reads the features as they are.
        dtype: of the module.
    """

    def __init__(
        self, weight: Tensor, affine: tuple[Tensor, Tensor] | None = None, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        self.weight = _constant(weight, dtype)
        self.scale, self.shift = _affine(affine, dtype)

    def forward(self, x: Features) -> Tensor:
        """Map features (N, I, H, W) to (N, O, 2H, 2W)."""
        read = _read(x, self.scale, self.shift)
        if self.weight.shape[2] == 1:
            return F.interpolate(F.conv2d(read, self.weight), scale_factor=2, mode="nearest")
        return F.conv_transpose2d(read, self.weight, stride=2, padding=1)


class Pyramid(nn.Module):
    """A sum of dilated 3x3 convolutions, one for each rate: an ASPP with everything linear after it.

    Args:
        weights: (rate, weight (O, I, 3, 3)) in float64, the centres summed in the first.
        bias: (O) in float64.
        dtype: of the module.
    """

    def __init__(self, weights: Sequence[tuple[int, Tensor]], bias: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.rates = tuple(rate for rate, _ in weights)
        self.weights = nn.ParameterList([_constant(weight, dtype) for _, weight in weights])
        self.bias = _constant(bias, dtype)

    def forward(self, x: Features) -> Tensor:
        """Map features (N, I, H, W) to (N, O, H, W); taps that lie outside the image everywhere are left out."""
        read = x.to_tensor()
        total = None
        for rate, weight in zip(self.rates, self.weights, strict=True):
            rows, columns = (_reaches(rate, size) for size in read.shape[2:])
            if total is not None and not rows and not columns:
                continue  # the centre is part of the first rate
            centre = slice(1, 2)
            taps = weight[:, :, slice(None) if rows else centre, slice(None) if columns else centre]
            bias = self.bias if total is None else None
            y = F.conv2d(read, taps, bias, 1, (rate * rows, rate * columns), rate)
            total = y if total is None else total + y
        assert total is not None
        return total


class PlanePyramid(nn.Module):
    """A ``Pyramid`` of few outputs: a matrix product to a plane for each tap and output, then their shifted sum.

    A library's convolution computes 16 outputs at a time at least; with one output 15 of them are wasted at each tap.

    Args:
        weights: (rate, weight (O, I, 3, 3)) in float64, the centres summed in the first.
        bias: (O) in float64.
        dtype: of the module.
    """

    def __init__(self, weights: Sequence[tuple[int, Tensor]], bias: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        steps = (-1, 0, 1)
        centre = weights[0][0]
        taps = {
            (rate * i, rate * j): weight[:, :, i + 1, j + 1]
            for rate, weight in weights
            for i in steps
            for j in steps
            if i or j or rate == centre
        }
        self.rates, self.offsets = tuple(rate for rate, _ in weights), tuple(taps)
        # (taps, O, I): a tap's outputs lie together.
        self.weight, self.bias = _constant(torch.stack([*taps.values()]), dtype), _constant(bias, dtype)

    def forward(self, x: Features) -> Tensor:
        """Map features (N, I, H, W) to (N, O, H, W); taps that lie outside the image everywhere are left out."""
        height, width = x.data.shape[2:]
        outputs = self.weight.shape[1]
        kept = [t for t, (dy, dx) in enumerate(self.offsets) if _reaches(dy, height) and _reaches(dx, width)]
        weight: Tensor = self.weight
        if len(kept) < len(self.offsets):
            weight = torch.stack([weight[t] for t in kept])  # indexed by the list it would wait for a GPU
        weight = weight.flatten(0, 1)
        if x.gate is not None:
            weight = weight * x.gate.flatten(2).transpose(1, 2)
        # A product of matrices and no convolution: its planes are contiguous, as their sum reads them.
        planes = torch.matmul(weight, x.data.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2))
        if planes.dtype in (torch.float16, torch.bfloat16):
            planes = planes.float()  # the rounding of 33 partial sums would show
        planes = planes.view(planes.shape[0], len(kept) * outputs, height, width)
        margin = [max(abs(self.offsets[t][axis]) for t in kept) for axis in (0, 1)]
        padded = F.pad(planes, (margin[1], margin[1], margin[0], margin[0]))
        total = self.bias[:, None, None]
        for position, t in enumerate(kept):
            top, left = margin[0] + self.offsets[t][0], margin[1] + self.offsets[t][1]
            plane = padded[:, position * outputs : (position + 1) * outputs]
            total = total + plane[:, :, top : top + height, left : left + width]
        return total.to(x.data.dtype)


class Excitation(nn.Module):
    """The gate of squeeze-and-excitation, ``sigmoid(W2 relu(W1 mean_hw(u)))`` (Hu et al. 2018).

    Args:
        first: W1 (C / reduction, C) in float64.
        last: W2 (C, C / reduction) in float64.
        dtype: of the module.
    """

    def __init__(self, first: Tensor, last: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first, self.last = _constant(first, dtype), _constant(last, dtype)

    def forward(self, u: Tensor) -> Features:
        """Return ``u`` (N, C, H, W) with its gate (N, C, 1, 1)."""
        gate = F.linear(F.linear(u.mean(dim=(2, 3)), self.first).relu(), self.last).sigmoid()
        return Features(u, gate[:, :, None, None])


def _constant(values: Tensor, dtype: torch.dtype) -> nn.Parameter:
    """Return a copy of float64 values, rounded once."""
    return nn.Parameter(values.to(dtype, copy=True).contiguous(), requires_grad=False)


def _affine(
    affine: tuple[Tensor, Tensor] | None, dtype: torch.dtype
) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    if affine is None:
        return None, None
    scale, shift = (_constant(vector[:, None, None], dtype) for vector in affine)
    return scale, shift


def _read(x: Features, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is None or shift is None:
        return x.to_tensor()
    return (x.data * (scale if x.gate is None else scale * x.gate) + shift).relu()


def _reaches(offset: int, size: int | torch.SymInt) -> bool:
    """Return whether a tap reaches the image from any pixel; an exported graph is for all sizes and keeps every tap."""
    return torch.compiler.is_exporting() or abs(offset) < size
