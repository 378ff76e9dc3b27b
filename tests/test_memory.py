"""What a training step keeps for its backward pass."""

from __future__ import annotations

import torch

from fastresunet import FastResUNetPP, ResUNetPP
from fastresunet.training.compare import activation_bytes


def test_kept_activations_at_256_pixels() -> None:
    image = torch.randn(2, 3, 256, 256)
    kept, reference = (activation_bytes(network(), image) / len(image) for network in (FastResUNetPP, ResUNetPP))
    assert 300e6 < reference < 310e6
    assert kept <= 0.27 * reference
