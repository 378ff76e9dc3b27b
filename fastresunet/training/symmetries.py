"""Test-time augmentation: the mean prediction over flips and quarter turns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SymmetryEnsemble(nn.Module):
    """A network that predicts for all 8 flips and quarter turns of an image, and averages the probabilities.

    It takes the network's place: logits in and out have the same shapes, and of one channel are those of a sigmoid, of
    several those of a softmax. The logits of the mean probabilities are computed from logarithms, so that they stay
    finite where probabilities round to 0 or 1.

    Args:
        network: maps (N, C, H, W) to logits (N, K, H, W), for squares or for any H and W.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the mean probabilities (N, K, H, W), in float32 or above, for images (N, C, H, W)."""
        logits = [
            _turned_back(self.network(_turned(x, turns, flip)), turns, flip)
            for flip in (False, True)
            for turns in range(4)
        ]
        stacked = torch.stack(logits)
        stacked = stacked.to(torch.promote_types(stacked.dtype, torch.float32))
        # All means share the factor 1/8, which cancels.
        if stacked.shape[2] > 1:
            return stacked.log_softmax(2).logsumexp(dim=0)
        return F.logsigmoid(stacked).logsumexp(dim=0) - F.logsigmoid(-stacked).logsumexp(dim=0)


def _turned(x: Tensor, turns: int, flip: bool) -> Tensor:
    return torch.rot90(x.flip(3) if flip else x, turns, (2, 3))


def _turned_back(x: Tensor, turns: int, flip: bool) -> Tensor:
    back = torch.rot90(x, -turns, (2, 3))
    return back.flip(3) if flip else back
