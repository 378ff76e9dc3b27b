"""Score a checkpoint on a folder of images and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fastresunet.training.console import say
from fastresunet.training.data import Pair
from fastresunet.training.data_format import KVASIR_SEG, DataFormat
from fastresunet.training.errors import UserError
from fastresunet.training.evaluation import ClassesEvaluation, Evaluation
from fastresunet.training.evaluation_files import write_evaluation
from fastresunet.training.files import check_writable
from fastresunet.training.gallery import Gallery
from fastresunet.training.inference import (
    DEFAULT_THRESHOLD,
    Device,
    decide,
    diverged_checkpoint_named,
    predict_probability,
)
from fastresunet.training.metrics import class_counts
from fastresunet.training.probability_histogram import ProbabilityHistogram, join, probability_histogram
from fastresunet.training.progress import track
from fastresunet.training.report import ReportHeader, write_report
from fastresunet.training.run import names_in
from fastresunet.training.split import Split, select_pairs
from fastresunet.training.symmetries import SymmetryEnsemble
from fastresunet.training.trained_network import check_fits, load_predictor


def evaluate(
    checkpoint: Path,
    data: Path,
    out: Path | None = None,
    *,
    split: Split | None = None,
    official: str | None = None,
    size: int | None = None,
    augment: bool = False,
    threshold: float = DEFAULT_THRESHOLD,
    surface_distances: bool = False,
    form: DataFormat | None = None,
    device: Device = "auto",
    cuda_graphs: bool = True,
) -> Evaluation | ClassesEvaluation:
    """Score a checkpoint; with ``out`` write the files of ``write_evaluation`` and ``report.html`` there.

    Args:
        checkpoint: file of this package or of the published model.
        data: folder with ``images`` and ``masks``, see ``find_pairs``.
        out: folder to write.
        split: which images to score; None takes what tells most, see ``select_pairs``.
        official: name of an official split that comes with the package, see ``named_split``; None takes that of the
            training, or of lists in ``data``.
        size: height and width for the network, in pixels; None takes that of the training (256 if unknown).
        augment: average the probabilities over 8 flips and quarter turns; see ``SymmetryEnsemble``.
        threshold: a pixel is foreground where its probability is above this; of several classes the likeliest is taken.
        surface_distances: also measure how far the outlines of truth and prediction lie apart; takes longer.
        form: of the files of ``data``; None takes that of the training.
        device: ``"auto"`` takes CUDA where there is one.
        cuda_graphs: on CUDA, capture the network in a CUDA graph, see ``GraphedInference``.

    Returns:
        What was measured on each image, and its scores; of several classes, those of each.

    Raises:
        UserError: the checkpoint, a file of the data or ``out`` cannot be used, or ``form`` does not fit the network.
    """
    if out is not None:
        check_writable(out)
    trained = load_predictor(checkpoint, device, cuda_graphs)
    form = form or trained.form
    check_fits(form, trained.form, checkpoint)
    model = SymmetryEnsemble(trained.model) if augment else trained.model
    pairs, reason = select_pairs(data, split, names_in(checkpoint), form, official)
    say(f"{len(pairs)} images of {data}: {reason}; {form.meaning}")
    if form.classes and threshold != DEFAULT_THRESHOLD:
        say("The threshold has no part in the masks of several classes.")
    size = size or trained.size
    gallery = Gallery(form)
    show = None if out is None else gallery.add
    evaluation: Evaluation | ClassesEvaluation
    with diverged_checkpoint_named(checkpoint):
        if form.classes:
            evaluation = evaluate_classes(model, pairs, size, surface_distances=surface_distances, show=show)
        else:
            evaluation = evaluate_model(model, pairs, size, threshold, surface_distances=surface_distances, show=show)
    if not evaluation.truth_occurs:
        # Of healthy tissue this is right, and of masks that are read in a wrong way it is the only sign.
        say(f"Nothing is marked in any of the {len(pairs)} masks. {form.expected}")
    if out is not None:
        write_evaluation(evaluation, out)
        header = ReportHeader(str(checkpoint), str(data), reason, size, threshold, augment)
        write_report(out / "report.html", header, evaluation, gallery)
    return evaluation


def named_folders(
    folders: Sequence[Path], form: DataFormat = KVASIR_SEG, official: str | None = None
) -> dict[str, Path]:
    """Return data folders by the name of their data set, which is that of the folder.

    Args:
        folders: data folders.
        form: of their files.
        official: split whose images all must hold, see ``named_split``; None asks for none.

    Raises:
        UserError: two folders have the same name, or one is no data folder, see ``find_pairs``, or lacks an image.
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
        select_pairs(folder, "all", form=form, official=official)
    return named


def evaluate_model(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    threshold: float = DEFAULT_THRESHOLD,
    *,
    surface_distances: bool = False,
    show: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Evaluation:
    """Score a network of one class on pairs.

    Args:
        model: network in evaluation mode, logits (N, 1, H, W) out.
        pairs: image and mask files, without classes.
        size: height and width for the network, in pixels.
        threshold: a pixel is foreground where its probability is above this.
        surface_distances: also measure how far the outlines of truth and prediction lie apart.
        show: is given the image, uint8 tensor (channels, H, W), and its true and predicted mask, uint8 tensors (H, W),
            of each pair in turn.

    Returns:
        What was measured on each image, and its scores.

    Raises:
        FloatingPointError: the network gives values that are not finite.
        UserError: a file cannot be read, or a mask is unclear or differs in size from its image.
    """
    (evaluation,) = _measure(model, pairs, size, threshold, surface_distances=surface_distances, show=show)
    return evaluation


def evaluate_classes(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    *,
    surface_distances: bool = False,
    show: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> ClassesEvaluation:
    """Score a network of several classes on pairs, each class against all others.

    Args:
        model: network in evaluation mode, logits (N, classes, H, W) out.
        pairs: image and mask files, whose format says the classes.
        size: as for ``evaluate_model``.
        surface_distances: as for ``evaluate_model``.
        show: as for ``evaluate_model``.

    Returns:
        What was measured on each image, and its scores.

    Raises:
        FloatingPointError: the network gives values that are not finite.
        UserError: a file cannot be read, or a mask is unclear or differs in size from its image.
    """
    each = _measure(model, pairs, size, surface_distances=surface_distances, show=show)
    return ClassesEvaluation(dict(zip(pairs[0].form.foreground_names, each, strict=True)))


def _measure(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    threshold: float = DEFAULT_THRESHOLD,
    *,
    surface_distances: bool,
    show: Callable[[Tensor, Tensor, Tensor], None] | None,
) -> list[Evaluation]:
    """Return the scores of each class but the background."""
    classes = len(pairs[0].form.foreground_names)
    counts: list[Tensor] = []
    histograms: list[list[ProbabilityHistogram]] = []
    distances: list[Tensor] = []
    for pair in track(pairs, "Evaluating", len(pairs)):
        image, mask = pair.read()
        probabilities = predict_probability(model, image, size)
        prediction = decide(probabilities, threshold)
        counts.append(class_counts(prediction[None], mask[None], classes))
        numbers = range(1, classes + 1)
        histograms.append(
            [probability_histogram(probabilities[number - classes - 1], mask == number) for number in numbers]
        )
        if surface_distances:
            # Needs scipy, which nothing else does.
            from fastresunet.training.surface_distances import measure_surface_distances  # noqa: PLC0415

            outlines = [measure_surface_distances(prediction == number, mask == number) for number in numbers]
            distances.append(torch.stack(outlines))
        if show is not None:
            show(image, mask, prediction)
    names = tuple(pair.name for pair in pairs)
    return [
        Evaluation(
            names,
            torch.cat(counts)[:, index],
            join([each[index] for each in histograms]),
            torch.stack(distances)[:, index] if distances else None,
            one_of_several=bool(pairs[0].form.classes),
        )
        for index in range(classes)
    ]
