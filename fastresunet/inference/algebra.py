"""The exact algebra of folding, on float64 weights: what running statistics make linear is multiplied out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastresunet.ops.torch_backend.parity import parity_weight


def batch_norm_affine(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> tuple[Tensor, Tensor]:
    """Return ``scale`` and ``shift`` (C) in float64 with ``norm(x) == x * scale + shift`` in evaluation mode.

    Ioffe and Szegedy 2015, algorithm 2: ``scale = gamma / sqrt(var + eps)``, ``shift = beta - mean * scale``.

    Args:
        norm: normalisation with running statistics, with or without ``gamma`` and ``beta``.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.detach().double(), norm.running_var.detach().double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    scale = gamma / (variance + norm.eps).sqrt()
    return scale, beta - mean * scale


def weight_and_bias(convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return copies of weight (O, I, k, k) and bias (O) in float64."""
    assert convolution.bias is not None
    return convolution.weight.detach().double(), convolution.bias.detach().double()


def scale_outputs(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Return weight and bias of ``scale * (weight * x + bias) + shift``, a scale and shift for each output."""
    return weight * scale[:, None, None, None], bias * scale + shift


def normalized_convolution(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with the BatchNorm after it: ``W' = scale W``, ``b' = scale b + shift``.

    Args:
        layers: convolution and normalisation.
    """
    convolution, norm = layers
    return scale_outputs(*weight_and_bias(convolution), *batch_norm_affine(norm))  # type: ignore[arg-type]


def projected_pyramid(
    branches: Sequence[nn.Sequential], projections: Sequence[nn.Conv2d]
) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Return an ASPP and the 1x1 convolutions after it as a sum of dilated convolutions, each rate once.

    With branch r normalised to ``W_r, b_r`` and a projection ``P, p``:
    ``P sum_r (W_r * x + b_r) + p = sum_r (P W_r) * x + (P sum_r b_r + p)``. Branches of equal rates are summed. The
    taps at the centre read the same pixel in every branch: their sum is kept in the first, the others' are 0.

    Args:
        branches: (convolution, normalisation) pairs, 3x3 and dilated.
        projections: 1x1 convolutions, in the order in which they are applied.

    Returns:
        (rate, weight (O, I, 3, 3)) for each distinct rate, and the bias (O).
    """
    weights: dict[int, Tensor] = {}
    total_bias = torch.zeros((), dtype=torch.float64)
    for branch in branches:
        weight, bias = normalized_convolution(branch)
        rate: int = branch[0].dilation[0]  # type: ignore[assignment, index]
        weights[rate] = weights[rate] + weight if rate in weights else weight
        total_bias = total_bias.to(bias.device) + bias
    for projection in projections:
        matrix, offset = weight_and_bias(projection)
        matrix = matrix.flatten(1)
        weights = {rate: torch.einsum("po,oiyx->piyx", matrix, weight) for rate, weight in weights.items()}
        total_bias = matrix @ total_bias + offset
    first, *others = weights.values()
    first[:, :, 1, 1] += sum(weight[:, :, 1, 1] for weight in others)
    for weight in others:
        weight[:, :, 1, 1] = 0
    return list(weights.items()), total_bias


def transposed_weight(weight: Tensor) -> Tensor:
    """Return the 4x4 weight of the transposed convolution that equals nearest x2 upsampling and a 3x3 convolution.

    Output row ``2i + p`` reads the small rows ``i + p - 1 + t``, t = 0, 1, with the summed taps of
    ``parity_weight``. The transposed convolution with stride 2 and padding 1 has kernel row ``3 - p - 2t`` there: it is
    the four 2x2 convolutions of the small map, their results interleaved.

    Args:
        weight: (O, I, 3, 3), acts on the upsampled map.

    Returns:
        (I, O, 4, 4), the layout of ``torch.nn.functional.conv_transpose2d``.
    """
    outputs, inputs = weight.shape[:2]
    parities = parity_weight(weight)
    kernel = weight.new_empty(inputs, outputs, 4, 4)
    for row_parity in (0, 1):
        for column_parity in (0, 1):
            taps = parities[row_parity, column_parity].transpose(0, 1).flip(2, 3)
            kernel[:, :, 1 - row_parity :: 2, 1 - column_parity :: 2] = taps
    return kernel
