"""Numbers computed in float64 by the published PyTorch implementation, and how to repeat them.

``running_stats_flat`` holds every running statistic in ``state_dict`` order. For the inputs ``a`` (2x3x64x64) and ``b``
(1x3x96x160) the archive has logits in eval and train mode, the loss, norms and random projections of every gradient and
norms of the running statistics after one step.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@functools.cache
def archive() -> dict[str, Any]:
    """Return the arrays by name."""
    with np.load(Path(__file__).parent / "official_pytorch.npz") as file:
        return {name: file[name] for name in file.files}


def generator(name: str) -> np.random.Generator:
    """Return the random generator that belongs to a parameter's name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def fill(model: nn.Module) -> None:
    """Give a default-sized network the parameters and running statistics that the golden numbers were computed with."""
    running, offset, state = archive()["running_stats_flat"], 0, {}
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            value = np.zeros(shape, np.int64)
        elif name.endswith(("running_mean", "running_var")):
            value = running[offset : offset + tensor.numel()].reshape(shape)
            offset += tensor.numel()
        elif len(shape) > 1:
            value = generator(name).normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        elif name.endswith(".weight"):
            value = generator(name).uniform(0.7, 1.3, shape).astype(np.float32)
        else:
            value = generator(name).normal(0, 0.05, shape).astype(np.float32)
        state[name] = torch.from_numpy(np.asarray(value)).to(tensor.dtype)
    model.load_state_dict(state)


def case(name: str) -> tuple[Tensor, Tensor]:
    """Return input and target of case ``"a"`` or ``"b"`` in float64."""
    arrays = archive()
    return torch.from_numpy(arrays[f"{name}.input"]).double(), torch.from_numpy(arrays[f"{name}.target"]).double()


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the golden numbers' loss: binary cross-entropy plus soft Dice loss over the whole batch."""
    probability = logits.sigmoid()
    dice = (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)
    return nn.functional.binary_cross_entropy(probability, target) + 1 - dice
