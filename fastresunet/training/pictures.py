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
from torch import nn

from fastresunet.training.data import Pair
from fastresunet.training.data_format import DataFormat
from fastresunet.training.evaluate import evaluate_classes, evaluate_model
from fastresunet.training.evaluation import ScoredImages
from fastresunet.training.files import write_atomically
from fastresunet.training.inference import class_numbers, decide, predict_probability
from fastresunet.training.overlay import SheetRow, draw_overlay, mask_colours, write_sheet

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
    """Show TensorBoard the first validation images with their true and predicted masks, now and then.

    Args:
        form: of the masks.
    """

    def __init__(self, form: DataFormat) -> None:
        self.form = form
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
        truth, prediction = masks[:, 0].to(torch.uint8), class_numbers(outputs[:SHOWN_IMAGES].float().cpu())
        colours = [mask_colours(self.form, truth=True), mask_colours(self.form)]
        pictures = [
            torch.cat([draw_overlay(image, *mask) for mask in zip(both, colours, strict=True)], dim=2)
            for image, *both in zip((images * 255).to(torch.uint8), truth, prediction, strict=True)
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


def write_validation_sheet(path: Path, model: nn.Module, pairs: Sequence[Pair], size: int) -> ScoredImages:
    """Write a picture of the best, the middle and the worst predictions.

    Args:
        path: PNG file to write.
        model: network in evaluation mode, logits (N, K, H, W) out.
        pairs: validation pairs, at least one; of many, the first ``MOST_SCORED`` are looked at.
        size: height and width for the network, in pixels.

    Returns:
        Scores of these pairs, at their original size.

    Raises:
        UserError: a file cannot be read or written.
    """
    pairs, form = pairs[:MOST_SCORED], pairs[0].form
    evaluation = evaluate_classes(model, pairs, size) if form.classes else evaluate_model(model, pairs, size)
    dice = evaluation.image_scores["dice"]
    order = dice.argsort(descending=True).tolist()
    middle = len(order) // 2
    last = len(order) - 1
    # Of few images, the first kinds take them.
    places = [("best", 0), ("worst", last), ("median", middle), ("best", 1), ("worst", last - 1)]
    chosen: dict[int, str] = {}
    for kind, place in places:
        if 0 <= place <= last:
            chosen.setdefault(place, kind)
    rows = [
        sheet_row(model, pairs[order[place]], size, f"{kind}: Dice {dice[order[place]]:.3f}")
        for place, kind in sorted(chosen.items())
    ]
    write_sheet(path, rows, f"Validation images, mean Dice {dice.mean().item():.3f}", form)
    return evaluation


def sheet_row(model: nn.Module, pair: Pair, size: int, caption: str) -> SheetRow:
    """Return an image with its true and its predicted mask.

    Args:
        model: network in evaluation mode, logits (N, K, H, W) out.
        pair: image and mask files.
        size: height and width for the network, in pixels.
        caption: text below.

    Raises:
        UserError: a file cannot be read.
    """
    image, truth = pair.read()
    return SheetRow(image, truth, decide(predict_probability(model, image, size), 0.5), caption)
