"""Optimisation and validation of the network as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from fastresunet.model import FastResUNetPP
from fastresunet.training.inference import class_numbers
from fastresunet.training.loss_choices import choose_loss
from fastresunet.training.metrics import ImageCounts, mean_over_classes
from fastresunet.training.recipe import Recipe
from fastresunet.training.run import Run

Batch = tuple[Tensor, Tensor]


class SegmentationModule(LightningModule):
    """FastResUNetPP with its loss, optimiser, learning rate and validation scores.

    Args:
        run: recipe, and what else the checkpoint keeps; the recipe names the filters.
        state: parameters to start from; None draws them.
        compile_model: compile the network with ``torch.compile``.
    """

    def __init__(self, run: Run, state: dict[str, Tensor] | None = None, compile_model: bool = False) -> None:
        super().__init__()
        # Plain values only, so that the checkpoint loads with weights_only=True.
        self.save_hyperparameters(run.to_hyper_parameters())
        self.recipe = run.recipe
        assert run.recipe.filters is not None
        form = run.recipe.form
        self.model = FastResUNetPP(form.channels, form.outputs, run.recipe.filters)
        if state is not None:
            self.model.load_state_dict(state)
        if compile_model:
            self.model.compile()
        self.loss = choose_loss(run.recipe.loss, form.outputs)
        self.image_counts = ImageCounts(len(form.foreground_names))

    def training_step(self, batch: Batch) -> Tensor:
        """Return the loss of a batch of images (N, channels, H, W) and masks (N, 1, H, W)."""
        images, masks = batch
        loss = self.training_loss(images, masks)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        return loss

    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the loss to train on."""
        return self.loss(self.model(images), masks)

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits (N, outputs, H, W) for validation."""
        logits: Tensor = self.model(images)
        return logits

    def validation_step(self, batch: Batch) -> Tensor:
        """Add a batch to the validation loss and to the confusion counts, and return its logits."""
        images, masks = batch
        logits = self.logits(images)
        loss = self.loss(logits, masks)
        self.log("val_loss", loss, batch_size=len(images), sync_dist=True)
        self.image_counts.update(class_numbers(logits), masks[:, 0])
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the means of Dice and IoU over images, and of each over its classes."""
        means = mean_over_classes(self.image_counts.compute())
        self.log_dict({f"val_{name}": means[name].mean().item() for name in ("dice", "iou")})
        self.image_counts.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser, and a learning rate that follows the planned steps."""
        optimizer = make_optimizer(self, self.recipe, self.fuses_optimizer)
        # Not trainer.estimated_stepping_batches: it would build the loaders before a resumed epoch is known.
        batches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        steps = math.ceil(batches / self.recipe.accumulate) * (self.trainer.max_epochs or 1)
        # A function of the planned steps, not a stored state: resuming with more epochs stretches the curve.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_curve(self.recipe, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def fuses_optimizer(self) -> bool:
        """Whether the optimiser's step is one kernel."""
        return False


def make_optimizer(module: nn.Module, recipe: Recipe, fused: bool) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe.

    Args:
        module: whose parameters are trained. Weight decay is for the kernels of convolutions; it would pull biases and
            the scales of normalisation, which have no use for it, to 0.
        recipe: optimiser, learning rate, weight decay.
        fused: compute its step in one kernel.
    """
    kernels = [x for x in module.parameters() if x.ndim > 1]
    vectors = [x for x in module.parameters() if x.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True, fused=fused)


def rate_curve(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return what the learning rate is multiplied by in each step.

    Args:
        recipe: warm-up and schedule.
        steps: planned steps of the optimiser.
    """
    warm_up = round(recipe.warm_up * steps)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        if recipe.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / (steps - warm_up))))

    return factor
