"""Squeeze-and-excitation of a vector of means, and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastresunet.ops.torch_backend.conv import conv


def excitation(mean: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    """Return ``sigmoid(W2 relu(W1 mean))`` for every sample."""
    hidden = F.relu(F.linear(mean, weight1.to(mean.dtype)))
    return torch.sigmoid(F.linear(hidden, weight2.to(mean.dtype)))


def conv_excitation(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    residual: Tensor | None,
    weight1: Tensor,
    weight2: Tensor,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, mean, M2 and gate of a convolution; arguments are those of ``conv`` and ``excitation``."""
    operands = (data, affine, relu, upsample, weight, bias, stride, 1, residual, None, None, False)
    output, mean, m2, _ = conv(*operands, True, packed)
    return output, mean, m2, excitation(mean, weight1, weight2)


def excitation_backward(
    grad: Tensor,
    gate: Tensor,
    mean: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    added_mean: Tensor | None = None,
    grad_m2: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``statistics`` and the gradients of W1 and W2; the hidden vector is computed once more.

    ``statistics`` (3, N, C) are the mean and the gradients of M2 and mean, as the gradient of a convolution takes them:
    that of M2 as given, that of the mean with ``added_mean``, which reached it otherwise.
    """
    wide1, wide2 = weight1.to(mean.dtype), weight2.to(mean.dtype)
    hidden = F.relu(F.linear(mean, wide1))
    grad_excited = grad * gate * (1 - gate)
    grad_hidden = (grad_excited @ wide2) * (hidden > 0)
    grad_weight1 = (grad_hidden.t() @ mean).to(weight1.dtype)
    grad_mean = grad_hidden @ wide1
    if added_mean is not None:
        grad_mean = grad_mean + added_mean
    statistics = torch.stack([mean, torch.zeros_like(mean) if grad_m2 is None else grad_m2, grad_mean])
    return statistics, grad_weight1, (grad_excited.t() @ hidden).to(weight2.dtype)
