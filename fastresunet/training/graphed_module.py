"""The training as a Lightning module whose steps are replayed from CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from fastresunet.cuda_graphs import GraphedInference, GraphedTrainingStep
from fastresunet.training.lightning_module import SegmentationModule

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class _Graphed:
    """What is replayed; no module, so that the network is not a second child of the Lightning module."""

    step: GraphedTrainingStep
    network: GraphedInference


class GraphedSegmentationModule(SegmentationModule):
    """A ``SegmentationModule`` on one GPU, whose training steps and validation passes are CUDA graphs.

    Lightning counts steps, sets learning rates, saves and logs as ever; what it calls between the loss and the end of
    the step does nothing, since the graph has done it. Losses, scores and checkpoints have the same form.
    """

    _graphed: _Graphed | None = None

    def on_fit_start(self) -> None:
        """Prepare the graphs, for the precision of the trainer."""
        precision = self.trainer.precision_plugin
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        step = GraphedTrainingStep(
            self.model,
            self._share_of_loss,
            optimizer,
            autocast=AUTOCAST.get(str(precision.precision)),
            clip_norm=self.recipe.clip_norm or None,
            scaler=getattr(precision, "scaler", None),
        )
        self._graphed = _Graphed(step, GraphedInference(self.model))

    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Make a whole training step, or of several batches the part of one, and return its loss."""
        assert self._graphed is not None
        # As Lightning does, the optimiser makes a step of the batches that are left at the end of an epoch.
        batches = self.trainer.fit_loop.batch_idx + 1
        update = batches % self.recipe.accumulate == 0 or self.trainer.is_last_batch
        return self._graphed.step(images, masks, update=update) * self.recipe.accumulate

    def _share_of_loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        return self.loss(logits, masks) / self.recipe.accumulate

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits for validation."""
        assert self._graphed is not None
        logits: Tensor = self._graphed.network(images)
        return logits

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the step has done it."""

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Run the closure, whose training step includes the optimiser's."""
        assert optimizer_closure is not None
        optimizer_closure()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Do nothing: the step has done it."""

    @property
    def fuses_optimizer(self) -> bool:
        """A fused step can be captured with a learning rate that changes."""
        return True
