"""What happens beside the training: the table of epochs, the best checkpoint, a clean stop on Ctrl-C or divergence."""

from __future__ import annotations

import csv
import io
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fastresunet.training.console import say
from fastresunet.training.errors import TrainingInterruptedError, UserError
from fastresunet.training.files import write_atomically
from fastresunet.training.recipe import Monitor

COLUMNS = ("epoch", "step", "train_loss", "val_loss", "val_dice", "val_iou", "learning_rate", "seconds")


class EpochTable(Callback):
    """Print one line an epoch and add it to a CSV file, after the rows that are already there.

    Lightning's own CSV logger deletes the rows of earlier runs when a training is resumed.

    Args:
        path: CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is resumed in its middle."""
        self.start = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and print the row of the epoch."""
        if not trainer.is_global_zero:
            return
        metrics = {name: float(trainer.callback_metrics[name]) for name in COLUMNS[2:6]}
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            **{name: f"{value:.6f}" for name, value in metrics.items()},
            "learning_rate": f"{trainer.optimizers[0].param_groups[0]['lr']:.3e}",
            "seconds": f"{time.perf_counter() - self.start:.2f}",
        }
        text = io.StringIO(self.path.read_text(encoding="utf-8") if self.path.exists() else ",".join(COLUMNS) + "\n")
        text.seek(0, io.SEEK_END)
        csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(row)
        write_atomically(self.path, text.getvalue().encode())
        say(
            f"epoch {row['epoch']}/{trainer.max_epochs}  loss {metrics['train_loss']:.4f}  "
            f"validation: loss {metrics['val_loss']:.4f}  Dice {metrics['val_dice']:.4f}  {row['seconds']} s"
        )


class BestCheckpoint(ModelCheckpoint):
    """Keep ``best.ckpt``, the epoch with the best score, also when a resumed training has moved.

    Args:
        folder: folder of the training.
        monitor: name of the score.
    """

    MODES: ClassVar[dict[Monitor, Literal["min", "max"]]] = {"val_dice": "max", "val_iou": "max", "val_loss": "min"}

    def __init__(self, folder: Path, monitor: Monitor) -> None:
        super().__init__(
            folder,
            "best",
            monitor=monitor,
            mode=self.MODES[monitor],
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score; Lightning would forget it, and replace a better file, in a folder of another name."""
        path, score = str(Path(str(self.dirpath)) / "best.ckpt"), state_dict["best_model_score"]
        here = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict({**state_dict, **here, "best_k_models": {} if score is None else {path: score}})


class StopOnDivergence(Callback):
    """Stop when a loss is not finite, before anything of that state is saved.

    The first step whose loss was not finite is remembered on the device. The host asks for it only now and then, as the
    answer waits for the device: every ``STEPS_BETWEEN_CHECKS`` steps, at the end of an epoch, and before every save.
    """

    STEPS_BETWEEN_CHECKS = 50

    def __init__(self) -> None:
        self.diverged_in: torch.Tensor | None = None  # global step, 0: none

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember whether the loss of a step is finite."""
        loss = outputs["loss"]
        if self.diverged_in is None:
            self.diverged_in = torch.zeros((), dtype=torch.int64, device=loss.device)
        here = (self.diverged_in == 0) & ~torch.isfinite(loss)
        self.diverged_in = torch.where(here, trainer.global_step, self.diverged_in)
        if trainer.is_last_batch or trainer.global_step % self.STEPS_BETWEEN_CHECKS == 0:
            self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the steps so far."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss of an epoch."""
        if not torch.isfinite(trainer.callback_metrics["val_loss"]):
            self._stop(f"of the validation of epoch {trainer.current_epoch + 1}")

    def _check(self, trainer: Trainer) -> None:
        step = 0 if self.diverged_in is None else int(self.diverged_in)
        # With several processes all must stop in the same step.
        if trainer.strategy.reduce_boolean_decision(step > 0, all=False):
            self._stop(f"in epoch {trainer.current_epoch + 1}, step {step or trainer.global_step}")

    def _stop(self, where: str) -> None:
        raise UserError(
            f"the loss {where} is not finite: the training has diverged. Checkpoints of earlier epochs are kept; "
            "train again with a lower --lr and another --out."
        )


class StopOnInterrupt(Callback):
    """On Ctrl-C finish the step, save ``last.ckpt`` and stop; a second Ctrl-C stops at once.

    Args:
        checkpoint: file to save.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.interrupted = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over Ctrl-C for the time of the block; Python lets only the main thread do so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.getsignal(signal.SIGINT)

        def remember(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, previous)
            say("Stopping after this step and saving; press Ctrl-C again to stop at once.")

        signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop after a step; after the last step of an epoch its validation comes first."""
        # Gradients of batches whose step is still to come would be lost.
        steps = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if steps and not trainer.is_last_batch and self._interrupted_anywhere(trainer):
            trainer.save_checkpoint(self.checkpoint)
            self._stop(f"in epoch {trainer.current_epoch + 1}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs; the end of the epoch has saved the checkpoint."""
        if trainer.current_epoch > 0 and self._interrupted_anywhere(trainer):
            self._stop(f"after epoch {trainer.current_epoch}")

    def _interrupted_anywhere(self, trainer: Trainer) -> bool:
        # With several processes the signal may reach them in different steps; all must stop in the same one.
        return bool(trainer.strategy.reduce_boolean_decision(self.interrupted, all=False))

    def _stop(self, when: str) -> None:
        raise TrainingInterruptedError(
            f"training interrupted {when}; its state is saved in {self.checkpoint}. "
            "Run the same command with --resume to go on."
        )
