"""Progress bars; a terminal shows them, a file or a pipe stays free of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import rich
import rich.progress
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

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
    """Show the batches of an epoch, those of its validation included; epochs count from 1 as in the printed lines."""

    def __init__(self) -> None:
        columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(*columns, console=rich.get_console(), transient=True)
        self.task = self.progress.add_task("", visible=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        if trainer.is_global_zero and self.progress.console.is_terminal:
            self.progress.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        batches = int(trainer.num_training_batches) + int(sum(trainer.num_val_batches))
        description = f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.progress.reset(self.task, total=batches, description=description, visible=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
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

    def _hide(self) -> None:
        # Stopping a bar that was never shown would print an empty line.
        if self.progress.live.is_started:
            self.progress.stop()
