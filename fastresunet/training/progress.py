"""Progress bars; a terminal shows them, a file or a pipe stays free of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import rich
import rich.progress
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from fastresunet.training.console import say

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Yield the items and show how many are done.

    Args:
        items: what to go through.
        description: text beside the bar.
        total: number of items; None if unknown.
    """
    hidden = not rich.get_console().is_terminal
    yield from rich.progress.track(items, description, total, transient=True, disable=hidden)


class EpochProgress(Callback):
    """Show the batches of an epoch, those of its validation included, and the loss.

    A terminal gets a bar, a file or a pipe a line every half a minute. Epochs count from 1, as in the printed lines.
    """

    # Looking at the loss makes the host wait for the GPU.
    SECONDS_BETWEEN_LOSSES = 2.0
    SECONDS_BETWEEN_LINES = 30.0
    STEPS_BEFORE_ESTIMATE = 10

    def __init__(self) -> None:
        columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(*columns, console=rich.get_console(), transient=True)
        self.task = self.progress.add_task("", visible=False)
        self.shows_bar = False
        self.looked_at = self.started_at = 0.0
        self.first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        self.looked_at, self.first_step = time.monotonic(), trainer.global_step
        self.shows_bar = trainer.is_global_zero and self.progress.console.is_terminal
        if self.shows_bar:
            self.progress.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        batches = int(trainer.num_training_batches) + int(sum(trainer.num_val_batches))
        self.progress.reset(self.task, total=batches, description=_epoch(trainer), visible=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance, and now and then show the loss."""
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        steps = trainer.global_step - self.first_step
        if steps == 1:
            # The first step compiles and captures.
            self.started_at = now
        elif steps == self.STEPS_BEFORE_ESTIMATE:
            self._say_expected_time(trainer, (now - self.started_at) / (steps - 1))
        every = self.SECONDS_BETWEEN_LOSSES if self.shows_bar else self.SECONDS_BETWEEN_LINES
        if now - self.looked_at > every:
            self.looked_at = now
            loss = f"loss {float(outputs['loss']) * trainer.accumulate_grad_batches:.4f}"
            if self.shows_bar:
                self.progress.update(self.task, description=f"{_epoch(trainer)}  {loss}")
            else:
                say(f"epoch {trainer.current_epoch + 1}  batch {batch_idx + 1}/{trainer.num_training_batches}  {loss}")
        self.progress.update(self.task, completed=batch_idx + 1)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance."""
        self.progress.advance(self.task)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._hide()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self._hide()

    def _say_expected_time(self, trainer: Trainer, seconds_a_step: float) -> None:
        left = int(trainer.estimated_stepping_batches) - trainer.global_step
        duration = timedelta(seconds=round(left * seconds_a_step))
        say(f"{seconds_a_step:.2f} s a step; about {duration} for the {left} steps left, without validation")

    def _hide(self) -> None:
        # Stopping a bar that was never shown would print an empty line.
        if self.progress.live.is_started:
            self.progress.stop()


def _epoch(trainer: Trainer) -> str:
    return f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
