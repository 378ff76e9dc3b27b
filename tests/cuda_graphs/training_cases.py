"""Networks, batches, and training steps as one writes them in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from fastresunet import FastResUNetPP, GraphedTrainingStep
from fastresunet.training.losses import bce_dice_loss

Batch = tuple[Tensor, Tensor]
Change = Callable[[nn.Module, torch.optim.Optimizer], object]
LEARNING_RATE = 1e-2


def small_network() -> nn.Sequential:
    """Return a network that takes no time, with BatchNorm."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))


def real_network() -> FastResUNetPP:
    """Return this package's network, with few channels."""
    torch.manual_seed(1)
    return FastResUNetPP(filters=(8, 8, 8, 8, 8))


def batches(*sizes: int, side: int = 16) -> list[Batch]:
    """Return batches of random images and masks, of these numbers of images."""
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.rand(size, 3, side, side, generator=generator),
            (torch.rand(size, 1, side, side, generator=generator) > 0.5).float(),
        )
        for size in sizes
    ]


def adamw(model: nn.Module, rate: float | Tensor = LEARNING_RATE, capturable: bool = False) -> torch.optim.AdamW:
    """Return AdamW in one kernel; the only one that takes a learning rate on the device where the CPU stands in."""
    return torch.optim.AdamW(model.parameters(), rate, fused=True, capturable=capturable)


def on_device(rate: float) -> Tensor:
    """Return a learning rate as a graph reads it."""
    return torch.full((), rate)


@dataclass
class PlainTraining:
    """A training loop without graphs; the options are those of ``GraphedTrainingStep``."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    autocast: torch.dtype | None = None
    clip_norm: float | None = None
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    loss_factor: float = 1.0

    def __call__(self, images: Tensor, masks: Tensor, *, update: bool = True) -> Tensor:
        """Make a step."""
        with torch.autocast("cpu", self.autocast, enabled=self.autocast is not None):
            loss = self.loss_factor * bce_dice_loss(self.model(images), masks)
        self.scaler.scale(loss).backward()
        if update:
            if self.clip_norm is not None:
                self.scaler.unscale_(self.optimizer)
                clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        return loss.detach()


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return copies of all that training changes: parameters, buffers, states of the optimiser."""
    found: list[Tensor] = [*model.state_dict().values()]
    for values in optimizer.state_dict()["state"].values():
        found += [value for value in values.values() if isinstance(value, Tensor)]
    return [tensor.clone() for tensor in found]


def assert_same(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    """Assert that tensors are equal bit by bit, but for the sign of 0."""
    torch.testing.assert_close([*found], [*expected], rtol=0, atol=0)


def graphed(model: nn.Module, **options: Any) -> GraphedTrainingStep:
    """Return a graphed step with AdamW."""
    return GraphedTrainingStep(model, bce_dice_loss, adamw(model), **options)


def plain(model: nn.Module, **options: Any) -> PlainTraining:
    """Return what it must equal."""
    return PlainTraining(model, adamw(model, on_device(LEARNING_RATE), capturable=True), **options)


def run(
    step: GraphedTrainingStep | PlainTraining, data: list[Batch], changes: dict[int, Change] | None = None
) -> list[Tensor]:
    """Make steps, with changes before some of them; return the losses and the state at the end."""
    losses = []
    for number, (images, masks) in enumerate(data):
        if changes and number in changes:
            changes[number](step.model, step.optimizer)
        losses.append(step(images, masks))
    return [*losses, *state(step.model, step.optimizer)]


def freeze(model: nn.Module, _: torch.optim.Optimizer) -> None:
    """Freeze the last layer of the small network."""
    model.get_submodule("3").requires_grad_(False)
