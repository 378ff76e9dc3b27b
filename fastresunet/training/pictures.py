"""Pictures of a training: its curves, and masks of validation images."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from fastresunet.training.data import Pair
from fastresunet.training.evaluate import evaluate_model
from fastresunet.training.evaluation import Evaluation
from fastresunet.training.files import write_atomically
from fastresunet.training.inference import predict_probability
from fastresunet.training.metrics import scores
from fastresunet.training.overlay import TRUTH_COLOUR, draw_overlay, write_sheet

SECONDS_BETWEEN = 30.0
SHOWN_IMAGES = 4
# A sheet needs no more to choose from.
MOST_SCORED = 500


class CurvesPicture(Callback):
    """Draw ``curves.png`` from the table of epochs, now and then and at the end.

    Args:
        table: CSV file of ``EpochTable``.
        path: PNG file to write.
    """

    def __init__(self, table: Path, path: Path) -> None:
        self.table, self.path = table, path
        self.drawn_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if the last picture is old."""
        if trainer.is_global_zero and time.monotonic() - self.drawn_at > SECONDS_BETWEEN:
            self._draw()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last picture."""
        if trainer.is_global_zero:
            self._draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what there is of a training that was interrupted."""
        if trainer.is_global_zero and self.table.exists():
            self._draw()

    def _draw(self) -> None:
        with self.table.open(encoding="utf-8") as file:
            write_curves(self.path, list(csv.DictReader(file)))
        self.drawn_at = time.monotonic()


class TensorBoardImages(Callback):
    """Show TensorBoard the first validation images with their true and predicted masks, now and then."""

    def __init__(self) -> None:
        self.shown_at = -SECONDS_BETWEEN

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show images of the first batch."""
        if batch_idx or not trainer.is_global_zero or time.monotonic() - self.shown_at < SECONDS_BETWEEN:
            return
        self.shown_at = time.monotonic()
        images, masks = (x[:SHOWN_IMAGES].cpu() for x in batch)
        pictures = [
            torch.cat([draw_overlay(image, mask, TRUTH_COLOUR), draw_overlay(image, logits > 0)], dim=2)
            for image, mask, logits in zip(
                (images * 255).to(torch.uint8), masks[:, 0] > 0, outputs[:SHOWN_IMAGES, 0].float().cpu(), strict=True
            )
        ]
        assert isinstance(trainer.logger, TensorBoardLogger)
        trainer.logger.experiment.add_image(
            "validation: truth, prediction", torch.cat(pictures, dim=1), trainer.global_step
        )


def write_curves(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a picture of losses, scores and learning rate over the epochs.

    Args:
        path: PNG file to write.
        rows: of ``epochs.csv``.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 7), layout="constrained")
    # The canvas draws without a display, and leaves the caller's choice of matplotlib backend alone.
    FigureCanvasAgg(figure)
    losses, quality, rates = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1])
    epochs = [int(row["epoch"]) for row in rows]

    def column(name: str) -> list[float]:
        return [float(row[name]) for row in rows]

    blue, orange = "tab:blue", "tab:orange"
    marker = "o" if len(rows) < 20 else None
    losses.plot(epochs, column("train_loss"), color=blue, marker=marker, label="training")
    losses.plot(epochs, column("val_loss"), color=orange, linestyle="--", marker=marker, label="validation")
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    dice = column("val_dice")
    quality.plot(epochs, dice, color=blue, marker=marker, label="Dice")
    quality.plot(epochs, column("val_iou"), color=orange, linestyle="--", marker=marker, label="IoU")
    best = max(range(len(rows)), key=lambda index: dice[index])
    note = f"best Dice {dice[best]:.4f}, epoch {epochs[best]}"
    quality.axvline(epochs[best], color="0.7", linewidth=1, zorder=0, label=note)
    quality.set_ylabel("validation, mean over images")
    quality.legend(framealpha=0.9, edgecolor="none")
    rates.plot(epochs, column("learning_rate"), color="0.4")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    rates.xaxis.get_major_locator().set_params(integer=True)
    for axis in (losses, quality, rates):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.92")
    encoded = io.BytesIO()
    figure.savefig(encoded, dpi=130, format="png")
    write_atomically(path, encoded.getvalue())


def write_validation_sheet(path: Path, model: nn.Module, pairs: Sequence[Pair], size: int) -> Evaluation:
    """Write a picture of the best, the middle and the worst predictions.

    Args:
        path: PNG file to write.
        model: network in evaluation mode, logits (N, 1, H, W) out.
        pairs: validation pairs; of many, the first ``MOST_SCORED`` are looked at.
        size: height and width for the network, in pixels.

    Returns:
        Scores of these pairs, at their original size.

    Raises:
        UserError: a file cannot be read or written.
    """
    pairs = pairs[:MOST_SCORED]
    evaluation = evaluate_model(model, pairs, size)
    dice = scores(evaluation.counts)["dice"]
    order = dice.argsort(descending=True).tolist()
    middle = len(order) // 2
    places = [("best", 0), ("best", 1), ("median", middle), ("worst", len(order) - 2), ("worst", len(order) - 1)]
    chosen: dict[int, str] = {}
    for kind, place in places:
        if 0 <= place < len(order):
            chosen.setdefault(order[place], kind)
    rows = [(*_shown(model, pairs[index], size), f"{kind}: Dice {dice[index]:.3f}") for index, kind in chosen.items()]
    write_sheet(path, rows, f"Validation images, mean Dice {dice.mean().item():.3f}")
    return evaluation


def _shown(model: nn.Module, pair: Pair, size: int) -> tuple[Tensor, Tensor, Tensor]:
    image, truth = pair.read()
    return image, truth, predict_probability(model, image, size) > 0.5
