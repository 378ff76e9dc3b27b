"""What an evaluation measured on a set of images, and the scores that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fastresunet.training.metrics import best_constant_dice, dataset_scores, image_means, scores
from fastresunet.training.probability_histogram import ProbabilityHistogram
from fastresunet.training.statistics import Statistics, describe

# 95th percentile of the Hausdorff distance, and symmetric average surface distance.
SURFACE_DISTANCES = ("hausdorff_95", "surface_distance")


@dataclass(frozen=True)
class Evaluation:
    """Scores of a network on a set of images, at the original size of each image.

    Args:
        names: name of each image.
        counts: int64 tensor (images, 4) of pixel counts in the order of ``metrics.COUNTS``.
        histogram: probabilities of each image by true class.
        distances: float64 tensor (images, 2) in pixels, in the order of ``SURFACE_DISTANCES``, NaN where a mask is
            empty; None if they were not measured.
    """

    names: tuple[str, ...]
    counts: Tensor
    histogram: ProbabilityHistogram
    distances: Tensor | None = None

    @cached_property
    def image_scores(self) -> dict[str, Tensor]:
        """Each metric of each image, float64 tensors (images,); surface distances too, where measured."""
        distances = () if self.distances is None else self.distances.unbind(1)
        return scores(self.counts) | dict(zip(SURFACE_DISTANCES, distances, strict=False))

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Mean over the images with its interval, median and spread, for each metric of ``image_scores``."""
        return {metric: describe(values) for metric, values in self.image_scores.items()}

    @property
    def image_means(self) -> dict[str, float]:
        """Mean over the images, for each metric."""
        return image_means(self.counts)

    @property
    def dataset_scores(self) -> dict[str, float]:
        """Value from the pixel counts of all images together, for each metric; NaN for surface distances."""
        return dict.fromkeys(self.image_scores, math.nan) | dataset_scores(self.counts)

    @property
    def best_constant_dice(self) -> float:
        """Mean Dice of the better constant prediction, everything or nothing."""
        return best_constant_dice(self.counts)

    @property
    def foreground_share(self) -> Tensor:
        """Share of the pixels of each image that is truly foreground, float64 tensor (images,)."""
        true_positives, _, _, false_negatives = self.counts.unbind(1)
        return (true_positives + false_negatives) / self.counts.sum(1).double()

    @property
    def without_surface_distances(self) -> int:
        """Number of images whose surface distances are not defined, as a mask is empty."""
        return 0 if self.distances is None else int(self.distances.isnan().any(1).sum())
