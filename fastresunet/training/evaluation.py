"""What an evaluation measured on a set of images, and the scores that follow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastresunet.training.metrics import (
    best_constant_dice,
    dataset_scores,
    mean_over_classes,
    occurs,
    scores,
)
from fastresunet.training.probability_histogram import ProbabilityHistogram
from fastresunet.training.statistics import Statistics, describe

# 95th percentile of the Hausdorff distance, and symmetric average surface distance.
SURFACE_DISTANCES = ("hausdorff_95", "surface_distance")


class ScoredImages(ABC):
    """Scores of a network on a set of images, at the original size of each image."""

    names: tuple[str, ...]

    @property
    @abstractmethod
    def image_scores(self) -> dict[str, Tensor]:
        """Each metric of each image, float64 tensors (images,), NaN where it is not defined."""

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Mean over the images with its interval, median and spread, for each metric of ``image_scores``."""
        return {metric: describe(values) for metric, values in self.image_scores.items()}

    @property
    def image_means(self) -> dict[str, float]:
        """Mean over the images, for each metric."""
        return {metric: score.mean for metric, score in self.statistics.items()}

    @property
    @abstractmethod
    def dataset_scores(self) -> dict[str, float]:
        """Value from the pixel counts of all images together, for each metric; NaN for surface distances."""

    @property
    @abstractmethod
    def best_constant_dice(self) -> float:
        """Mean Dice of the best constant prediction, in which all pixels are of one class."""

    @property
    @abstractmethod
    def truth_occurs(self) -> bool:
        """Whether anything but background is true anywhere."""

    @property
    def without_surface_distances(self) -> int:
        """Number of images whose surface distances are not defined, as a mask is empty."""
        distances = self.image_scores.get(SURFACE_DISTANCES[0])
        return 0 if distances is None else int(distances.isnan().sum())


@dataclass(frozen=True)
class Evaluation(ScoredImages):
    """Scores of the foreground, or of one class against all others.

    Args:
        names: name of each image.
        counts: int64 tensor (images, 4) of pixel counts in the order of ``metrics.COUNTS``.
        histogram: probabilities of each image by true class.
        distances: float64 tensor (images, 2) in pixels, in the order of ``SURFACE_DISTANCES``, NaN where a mask is
            empty; None if they were not measured.
        one_of_several: whether this is a class of several: then an image counts where the class occurs in its truth or
            prediction.
    """

    names: tuple[str, ...]
    counts: Tensor
    histogram: ProbabilityHistogram
    distances: Tensor | None = None
    one_of_several: bool = False

    @cached_property
    def image_scores(self) -> dict[str, Tensor]:
        """Each metric of each image, float64 tensors (images,); surface distances too, where measured."""
        values = scores(self.counts)
        if self.one_of_several:
            absent = ~occurs(self.counts)
            # The mean over this class and all else says nothing that its own IoU does not.
            values = {name: x.masked_fill(absent, math.nan) for name, x in values.items() if name != "miou"}
        distances = () if self.distances is None else self.distances.unbind(1)
        return values | dict(zip(SURFACE_DISTANCES, distances, strict=False))

    @property
    def dataset_scores(self) -> dict[str, float]:
        """Value from the pixel counts of all images together, for each metric; NaN for surface distances."""
        undefined = self.one_of_several and not occurs(self.counts).any()
        totals = {} if undefined else dataset_scores(self.counts)
        return {name: totals.get(name, math.nan) for name in self.image_scores}

    @property
    def best_constant_dice(self) -> float:
        """Mean Dice of the better constant prediction, everything or nothing."""
        return best_constant_dice(self.counts[:, None])

    @property
    def truth_occurs(self) -> bool:
        """Whether the foreground is true anywhere."""
        return bool((self.foreground_share > 0).any())

    @property
    def foreground_share(self) -> Tensor:
        """Share of the pixels of each image that is truly foreground, float64 tensor (images,)."""
        true_positives, _, _, false_negatives = self.counts.unbind(1)
        return (true_positives + false_negatives) / self.counts.sum(1).double()


@dataclass(frozen=True)
class ClassesEvaluation(ScoredImages):
    """Scores of several classes, each against all others, and their means over the classes.

    Args:
        classes: evaluation of each class but the background, on the same images, by its name.
    """

    classes: Mapping[str, Evaluation]

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Name of each image."""
        return self._each[0].names

    @cached_property
    def image_scores(self) -> dict[str, Tensor]:
        """Each metric of each image: its mean over the classes that occur there; 1 in an image in which none does."""
        means = mean_over_classes(self._counts)
        for metric in SURFACE_DISTANCES:
            if metric in self._each[0].image_scores:
                means[metric] = torch.stack([each.image_scores[metric] for each in self._each]).nanmean(0)
        return {metric: means[metric] for metric in self._each[0].image_scores}

    @property
    def dataset_scores(self) -> dict[str, float]:
        """Mean over the classes of the value from the pixel counts of all images together, for each metric."""
        totals = [each.dataset_scores for each in self._each]
        return {
            metric: torch.tensor([total[metric] for total in totals], dtype=torch.float64).nanmean().item()
            for metric in totals[0]
        }

    @property
    def best_constant_dice(self) -> float:
        """Mean Dice of the best constant prediction, in which all pixels are of one class."""
        return best_constant_dice(self._counts)

    @property
    def truth_occurs(self) -> bool:
        """Whether any class but the background is true anywhere."""
        return any(each.truth_occurs for each in self._each)

    @property
    def _counts(self) -> Tensor:
        return torch.stack([each.counts for each in self._each], dim=1)

    @property
    def _each(self) -> Sequence[Evaluation]:
        return [*self.classes.values()]
