"""Score a checkpoint on a folder of images and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fastresunet.cuda_graphs import GraphedInference
from fastresunet.inference import fold
from fastresunet.model import FastResUNetPP
from fastresunet.training.checkpoints import load_model
from fastresunet.training.console import say
from fastresunet.training.data import Pair, find_pairs
from fastresunet.training.errors import UserError
from fastresunet.training.evaluation import Evaluation
from fastresunet.training.evaluation_files import write_evaluation
from fastresunet.training.files import check_writable
from fastresunet.training.gallery import Gallery
from fastresunet.training.inference import (
    DEFAULT_SIZE,
    Device,
    choose_device,
    diverged_checkpoint_named,
    predict_probability,
)
from fastresunet.training.metrics import confusion_counts
from fastresunet.training.probability_histogram import join, probability_histogram
from fastresunet.training.progress import track
from fastresunet.training.report import ReportHeader, write_report
from fastresunet.training.run import names_in
from fastresunet.training.split import Split, select_pairs
from fastresunet.training.symmetries import SymmetryEnsemble


def evaluate(
    checkpoint: Path,
    data: Path,
    out: Path | None = None,
    *,
    split: Split | None = None,
    size: int | None = None,
    augment: bool = False,
    threshold: float = 0.5,
    surface_distances: bool = False,
    device: Device = "auto",
    cuda_graphs: bool = True,
) -> Evaluation:
    """Score a checkpoint; with ``out`` write the files of ``write_evaluation`` and ``report.html`` there.

    Args:
        checkpoint: file of this package or of the published model.
        data: folder with ``images`` and ``masks``, see ``find_pairs``.
        out: folder to write.
        split: which images to score; None takes what tells most, see ``select_pairs``.
        size: height and width for the network, in pixels; None takes that of the training (256 if unknown).
        augment: average the probabilities over 8 flips and quarter turns; see ``SymmetryEnsemble``.
        threshold: a pixel is foreground where its probability is above this.
        surface_distances: also measure how far the outlines of truth and prediction lie apart; takes longer.
        device: ``"auto"`` takes CUDA where there is one.
        cuda_graphs: on CUDA, capture the network in a CUDA graph, see ``GraphedInference``.

    Returns:
        What was measured on each image, and its scores.

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
    size = size or trained_size
    gallery = Gallery()
    with diverged_checkpoint_named(checkpoint):
        evaluation = evaluate_model(
            model,
            pairs,
            size,
            threshold,
            surface_distances=surface_distances,
            show=None if out is None else gallery.add,
        )
    if out is not None:
        write_evaluation(evaluation, out)
        header = ReportHeader(str(checkpoint), str(data), reason, size, threshold, augment)
        write_report(out / "report.html", header, evaluation, gallery)
    return evaluation


def named_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Return data folders by the name of their data set, which is that of the folder.

    Args:
        folders: data folders.

    Raises:
        UserError: two folders have the same name, or one is no data folder, see ``find_pairs``.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in named:
            raise UserError(
                f"data folders {named[name]} and {folder} are both called {name!r}, under which their scores would be "
                "written. Expected: folders of different names; rename one of them, or evaluate them one by one."
            )
        named[name] = folder
    for folder in folders:
        # Found here, a wrong folder does not stop the work after the folders before it were scored.
        find_pairs(folder)
    return named


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


def evaluate_model(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    threshold: float = 0.5,
    *,
    surface_distances: bool = False,
    show: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Evaluation:
    """Score a network on pairs.

    Args:
        model: network in evaluation mode, logits (N, 1, H, W) out.
        pairs: image and mask files.
        size: height and width for the network, in pixels.
        threshold: a pixel is foreground where its probability is above this.
        surface_distances: also measure how far the outlines of truth and prediction lie apart.
        show: is given the image, uint8 tensor (3, H, W), and its true and predicted mask, bool tensors (H, W), of
            each pair in turn.

    Returns:
        What was measured on each image, and its scores.

    Raises:
        FloatingPointError: the network gives values that are not finite.
        UserError: a file cannot be read, or a mask is unclear or differs in size from its image.
    """
    counts, histograms, distances = [], [], []
    for pair in track(pairs, "Evaluating", len(pairs)):
        image, mask = pair.read()
        probability = predict_probability(model, image, size)
        prediction = probability > threshold
        counts.append(confusion_counts(prediction[None], mask[None]))
        histograms.append(probability_histogram(probability, mask))
        if surface_distances:
            # Needs scipy, which nothing else does.
            from fastresunet.training.surface_distances import measure_surface_distances  # noqa: PLC0415

            distances.append(measure_surface_distances(prediction, mask))
        if show is not None:
            show(image, mask, prediction)
    names = tuple(pair.name for pair in pairs)
    return Evaluation(names, torch.cat(counts), join(histograms), torch.stack(distances) if distances else None)
