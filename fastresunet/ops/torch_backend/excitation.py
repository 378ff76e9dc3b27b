"""Squeeze-and-excitation of a vector of means, and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def excitation(mean: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    """Return ``sigmoid(W2 relu(W1 mean))`` for every sample."""
    hidden = F.relu(F.linear(mean, weight1.to(mean.dtype)))
    return torch.sigmoid(F.linear(hidden, weight2.to(mean.dtype)))


def excitation_backward(
    grad: Tensor, gate: Tensor, mean: Tensor, weight1: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of mean, W1 and W2; the hidden vector is computed once more."""
    wide1, wide2 = weight1.to(mean.dtype), weight2.to(mean.dtype)
    hidden = F.relu(F.linear(mean, wide1))
    grad_excited = grad * gate * (1 - gate)
    grad_hidden = (grad_excited @ wide2) * (hidden > 0)
    grad_weight1 = (grad_hidden.t() @ mean).to(weight1.dtype)
    return grad_hidden @ wide1, grad_weight1, (grad_excited.t() @ hidden).to(weight2.dtype)
