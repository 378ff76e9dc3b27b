"""Score a checkpoint on a folder of images and masks."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastresunet.cuda_graphs import GraphedInference
from fastresunet.inference import fold
from fastresunet.model import FastResUNetPP
from fastresunet.training.checkpoints import load_model
from fastresunet.training.console import say
from fastresunet.training.data import Pair
from fastresunet.training.errors import UserError
from fastresunet.training.files import check_writable, write_atomically
from fastresunet.training.inference import (
    DEFAULT_SIZE,
    Device,
    choose_device,
    diverged_checkpoint_named,
    predict_probability,
)
from fastresunet.training.metrics import COUNTS, METRICS, confusion_counts, dataset_scores, image_means, scores
from fastresunet.training.progress import track
from fastresunet.training.run import names_in
from fastresunet.training.split import Split, select_pairs
from fastresunet.training.symmetries import SymmetryEnsemble


@dataclass(frozen=True)
class Evaluation:
    """Scores of a network on a set of images, at the original size of each image.

    Args:
        names: name of each image.
        counts: int64 tensor (images, 4) of pixel counts in the order of ``metrics.COUNTS``.
    """

    names: tuple[str, ...]
    counts: Tensor

    @property
    def image_means(self) -> dict[str, float]:
        """Mean over the images, for each metric."""
        return image_means(self.counts)

    @property
    def dataset_scores(self) -> dict[str, float]:
        """Value from the pixel counts of all images together, for each metric."""
        return dataset_scores(self.counts)


def evaluate(
    checkpoint: Path,
    data: Path,
    out: Path | None = None,
    *,
    split: Split | None = None,
    size: int | None = None,
    augment: bool = False,
    threshold: float = 0.5,
    device: Device = "auto",
    cuda_graphs: bool = True,
) -> Evaluation:
    """Score a checkpoint; with ``out`` write ``per_image.csv`` and ``summary.csv`` there.

    Args:
        checkpoint: file of this package or of the published model.
        data: folder with ``images`` and ``masks``, see ``find_pairs``.
        out: folder to write.
        split: which images to score; None takes what tells most, see ``select_pairs``.
        size: height and width for the network, in pixels; None takes that of the training (256 if unknown).
        augment: average the probabilities over 8 flips and quarter turns; see ``SymmetryEnsemble``.
        threshold: a pixel is foreground where its probability is above this.
        device: ``"auto"`` takes CUDA where there is one.
        cuda_graphs: on CUDA, capture the network in a CUDA graph, see ``GraphedInference``.

    Returns:
        Pixel counts of each image, and their scores.

    Raises:
        UserError: the checkpoint, a file of the data or ``out`` cannot be used.
    """
    if out is not None:
        check_writable(out)
    model, trained_size = load_predictor(checkpoint, device, cuda_graphs)
    if augment:
        model = SymmetryEnsemble(model)
    pairs, reason = select_pairs(data, split, names_in(checkpoint))
    say(f"{len(pairs)} images of {data}: {reason}")
    with diverged_checkpoint_named(checkpoint):
        evaluation = evaluate_model(model, pairs, size or trained_size, threshold)
    if out is not None:
        write_evaluation(evaluation, out)
    return evaluation


def load_predictor(checkpoint: Path, device: Device, cuda_graphs: bool = True) -> tuple[nn.Module, int]:
    """Load a network for RGB images and one class, for prediction: folded.

    Args:
        checkpoint: file of this package or of a published model.
        device: ``"auto"`` takes CUDA where there is one.
        cuda_graphs: on CUDA, capture it in a CUDA graph.

    Returns:
        Network in evaluation mode on the device, and the image size it was trained at (256 if unknown).

    Raises:
        UserError: the checkpoint cannot be read, or has other numbers of channels.
    """
    model, size = load_binary_model(checkpoint, device)
    folded = fold(model)
    return GraphedInference(folded) if cuda_graphs else folded, size


def load_binary_model(checkpoint: Path, device: Device) -> tuple[FastResUNetPP, int]:
    """Load a network for RGB images and one class.

    Args:
        checkpoint: file of this package or of the published model.
        device: ``"auto"`` takes CUDA where there is one.

    Returns:
        Network in evaluation mode on the device, and the image size it was trained at (256 if unknown).

    Raises:
        UserError: the checkpoint cannot be read, or has other numbers of channels.
    """
    model, size = load_model(checkpoint)
    if (model.in_channels, model.num_classes) != (3, 1):
        raise UserError(
            f"checkpoint {checkpoint} has in_channels={model.in_channels} and num_classes={model.num_classes}; "
            "expected 3 (RGB) and 1 (polyp or not)."
        )
    return model.to(choose_device(device)), size or DEFAULT_SIZE


def evaluate_model(model: nn.Module, pairs: Sequence[Pair], size: int, threshold: float = 0.5) -> Evaluation:
    """Score a network on pairs.

    Args:
        model: network in evaluation mode, logits (N, 1, H, W) out.
        pairs: image and mask files.
        size: height and width for the network, in pixels.
        threshold: a pixel is foreground where its probability is above this.

    Returns:
        Pixel counts of each image, and their scores.

    Raises:
        FloatingPointError: the network gives values that are not finite.
        UserError: a file cannot be read, or a mask is unclear or differs in size from its image.
    """
    counts = []
    for pair in track(pairs, "Evaluating", len(pairs)):
        image, mask = pair.read()
        prediction = predict_probability(model, image, size) > threshold
        counts.append(confusion_counts(prediction[None], mask[None]))
    return Evaluation(tuple(pair.name for pair in pairs), torch.cat(counts))


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write ``per_image.csv`` (a row an image) and ``summary.csv`` (a row a metric).

    Args:
        evaluation: scores to write.
        out: folder to write.

    Raises:
        UserError: a file cannot be written.
    """
    columns = scores(evaluation.counts)
    rows = [
        [name, *(f"{columns[metric][index].item():.6f}" for metric in METRICS), *evaluation.counts[index].tolist()]
        for index, name in enumerate(evaluation.names)
    ]
    _write_csv(out / "per_image.csv", ["image", *METRICS, *COUNTS], rows)
    means, totals = evaluation.image_means, evaluation.dataset_scores
    summary = [[metric, f"{means[metric]:.6f}", f"{totals[metric]:.6f}"] for metric in METRICS]
    _write_csv(out / "summary.csv", ["metric", "image_mean", "dataset"], summary)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
