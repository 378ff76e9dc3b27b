"""Charts in a report."""

from __future__ import annotations

from html import escape

from torch import Tensor

from fastresunet.training import charts
from fastresunet.training.evaluation import ClassesEvaluation, Evaluation, ScoredImages
from fastresunet.training.metrics import scores
from fastresunet.training.probability_histogram import THRESHOLDS, calibration, counts_at_thresholds
from fastresunet.training.report_html import count, figure


def charts_section(evaluation: ScoredImages, threshold: float) -> str:
    """Return the charts of an evaluation.

    Args:
        evaluation: scores to show.
        threshold: above which a pixel is foreground, where there are no classes.
    """
    figures = [_histogram(evaluation.image_scores["dice"])]
    if isinstance(evaluation, ClassesEvaluation):
        figures += [_calibration(each, name) for name, each in evaluation.classes.items()]
    elif isinstance(evaluation, Evaluation):
        figures += [_thresholds(evaluation, threshold), _calibration(evaluation, "polyp"), *_sizes(evaluation)]
    return '<h2>Charts</h2>\n<div class="charts">\n' + "\n".join(figures) + "\n</div>"


def _histogram(dice: Tensor) -> str:
    return figure(
        charts.dice_histogram(dice),
        "Histogram of Dice",
        f"How many images have which Dice. {count(int((dice < 0.5).sum()), 'image')} of {len(dice)} below 0.5.",
    )


def _thresholds(evaluation: Evaluation, threshold: float) -> str:
    at_thresholds = scores(counts_at_thresholds(evaluation.histogram))
    dice, iou = (at_thresholds[metric].mean(0) for metric in ("dice", "iou"))
    best = int(dice.argmax())
    return figure(
        charts.threshold_curve(dice, iou, threshold),
        "Mean Dice and IoU over the threshold",
        f"Scores at other thresholds. Dice is highest at {THRESHOLDS[best]:.2f} with {dice[best]:.3f}; a threshold "
        "chosen on these images would flatter them.",
    )


def _calibration(evaluation: Evaluation, name: str) -> str:
    calibrated = calibration(evaluation.histogram)
    title = f"Calibration: {escape(name)}" if evaluation.one_of_several else "Calibration"
    return figure(
        charts.calibration_curve(calibrated, name),
        title,
        f"Of the pixels given a probability, how many are {escape(name)}. Below the dotted line the network is too "
        f"sure of {escape(name)}, above it not sure enough. "
        f"Expected calibration error {calibrated.expected_error:.3f}.",
    )


def _sizes(evaluation: Evaluation) -> list[str]:
    share, dice = evaluation.foreground_share, evaluation.image_scores["dice"]
    if not (share > 0).any():
        return []
    drawing = charts.dice_by_size(share[share > 0], dice[share > 0])
    return [figure(drawing, "Dice by size of the polyp", "Dice of each image with a polyp by the polyp's size.")]
