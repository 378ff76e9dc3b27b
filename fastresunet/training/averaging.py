"""The moving average of the weights, which is what is validated and saved."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

_Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]


class MovingAverage(WeightAveraging):
    """Exponential moving average of weights and running statistics, from the first step on.

    Lightning's own keeps the same share from the beginning, so that a short training would keep its random initial
    weights. Here the first averages reach back for a tenth of the steps so far.

    Args:
        share: that the average keeps in every step, in the long run.
    """

    def __init__(self, share: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=self._update)
        self.share = share
        self._share_now = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with a copy of the network, where it will be trained."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # The host counts: asked on a GPU, every step would wait for it.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Update the average after a step of the optimiser."""
        self._share_now = min(self.share, (1 + trainer.global_step) / (10 + trainer.global_step))
        super().on_train_batch_end(trainer, *args, **kwargs)

    def _update(self, averages: _Tensors, values: _Tensors, number: Tensor | int) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - self._share_now)
        else:
            # Counters of batches are no averages.
            torch._foreach_copy_(averages, values)
