"""Segmentation scores from confusion counts; docs/training.md gives the formulas."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

METRICS = ("dice", "iou", "miou", "recall", "precision", "f2", "accuracy")
COUNTS = ("true_positives", "false_positives", "true_negatives", "false_negatives")


def confusion_counts(prediction: Tensor, target: Tensor) -> Tensor:
    """Count pixels by predicted and true class, for each image.

    Args:
        prediction: bool tensor (N, H, W), true where foreground is predicted.
        target: bool tensor (N, H, W), true where foreground is.

    Returns:
        int64 tensor (N, 4) of true positives, false positives, true negatives and false negatives.
    """
    prediction, target = prediction.flatten(1), target.flatten(1)
    tp, fp = (prediction & target).sum(1), (prediction & ~target).sum(1)
    tn, fn = (~prediction & ~target).sum(1), (~prediction & target).sum(1)
    return torch.stack([tp, fp, tn, fn], dim=1)


def class_counts(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Count pixels of each class but the background against all others, for each image.

    Args:
        prediction: predicted class of each pixel, integer tensor (N, H, W); 0 is the background.
        target: true class of each pixel, of the same shape.
        classes: number of classes without the background.

    Returns:
        int64 tensor (N, classes, 4) in the order of ``COUNTS``.
    """
    counts = [confusion_counts(prediction == number, target == number) for number in range(1, classes + 1)]
    return torch.stack(counts, dim=1)


class ImageCounts(Metric):
    """Confusion counts of every image seen since the last reset, gathered from all training processes.

    Args:
        classes: number of classes without the background.
    """

    counts: list[Tensor]

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("counts", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add images; arguments as for ``class_counts``."""
        self.counts.append(class_counts(prediction, target, self.classes))

    def compute(self) -> Tensor:
        """Return the counts, int64 tensor (images, classes, 4)."""
        return dim_zero_cat(self.counts)


def scores(counts: Tensor) -> dict[str, Tensor]:
    """Compute all metrics from confusion counts.

    Args:
        counts: tensor (..., 4) in the order of ``COUNTS``, from one image or summed over many.

    Returns:
        float64 tensor (...) in [0, 1] for each name in ``METRICS``.
    """
    tp, fp, tn, fn = counts.double().unbind(-1)
    perfect = (fp + fn) == 0

    def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
        # 0 / 0 (for instance Dice of two empty masks) counts 1 where the prediction equals the truth, 0 elsewhere.
        return torch.where(denominator > 0, numerator / denominator.clamp(min=1), perfect.double())

    foreground_iou = ratio(tp, tp + fp + fn)
    background_iou = ratio(tn, tn + fp + fn)
    return {
        "dice": ratio(2 * tp, 2 * tp + fp + fn),
        "iou": foreground_iou,
        "miou": (foreground_iou + background_iou) / 2,
        "recall": ratio(tp, tp + fn),
        "precision": ratio(tp, tp + fp),
        "f2": ratio(5 * tp, 5 * tp + 4 * fn + fp),
        "accuracy": (tp + tn) / (tp + fp + tn + fn),
    }


def image_means(counts: Tensor) -> dict[str, float]:
    """Average each metric over the images (each image weighs the same).

    Args:
        counts: tensor (N, 4) in the order of ``COUNTS``.

    Returns:
        Mean for each name in ``METRICS``.
    """
    return {name: values.mean().item() for name, values in scores(counts).items()}


def occurs(counts: Tensor) -> Tensor:
    """Return where foreground is true or predicted.

    Args:
        counts: tensor (..., 4) in the order of ``COUNTS``.

    Returns:
        bool tensor (...).
    """
    tp, fp, _, fn = counts.unbind(-1)
    return (tp + fp + fn) > 0


def mean_over_classes(counts: Tensor) -> dict[str, Tensor]:
    """Average each metric of each image over the classes that occur in its truth or prediction.

    Args:
        counts: tensor (N, classes, 4) in the order of ``COUNTS``.

    Returns:
        float64 tensor (N,) for each name in ``METRICS``; 1 for an image in which none occurs.
    """
    absent = ~occurs(counts)
    return {
        name: values.masked_fill(absent, math.nan).nanmean(1).nan_to_num(1.0) for name, values in scores(counts).items()
    }


def dataset_scores(counts: Tensor) -> dict[str, float]:
    """Compute each metric once, from the counts summed over all images (each pixel weighs the same).

    Args:
        counts: tensor (N, 4) in the order of ``COUNTS``.

    Returns:
        Value for each name in ``METRICS``.
    """
    return {name: value.item() for name, value in scores(counts.sum(0)).items()}


def best_constant_dice(counts: Tensor) -> float:
    """Return the mean Dice of the best constant prediction, in which all pixels are of one class.

    Args:
        counts: tensor (N, classes, 4) in the order of ``COUNTS``, from any prediction; only the true classes matter.
    """
    tp, fp, tn, fn = counts.unbind(-1)
    present, absent, none = tp + fn, fp + tn, torch.zeros_like(tp)
    everywhere = torch.stack([present, absent, none, none], dim=-1)
    nowhere = torch.stack([none, none, absent, present], dim=-1)
    # Every class is nowhere: all is background.
    predictions = [nowhere]
    for number in range(counts.shape[1]):
        predictions.append(nowhere.clone())
        predictions[-1][:, number] = everywhere[:, number]
    return max(mean_over_classes(prediction)["dice"].mean().item() for prediction in predictions)
