"""Describe a score over images: mean with its uncertainty, median and spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BOOTSTRAP_DRAWS = 10_000
DRAWS_AT_ONCE = 100
BOOTSTRAP_SEED = 0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Statistics:
    """A score over images. All values are NaN where there is no image.

    Args:
        images: number of images that have the score.
        mean: mean over those images.
        interval: lower and upper end of the 95 % bootstrap interval of the mean.
        median: median over those images.
        standard_deviation: sample standard deviation over those images; NaN for a single one.
    """

    images: int
    mean: float
    interval: tuple[float, float]
    median: float
    standard_deviation: float


def describe(values: Tensor) -> Statistics:
    """Describe a score over images; images where it is not defined are left out.

    Args:
        values: floating point tensor (images,), NaN where the score is not defined.
    """
    values = values[~values.isnan()].double()
    if not len(values):
        return Statistics(0, math.nan, (math.nan, math.nan), math.nan, math.nan)
    deviation = values.std().item() if len(values) > 1 else math.nan
    # Tensor.median takes the lower of the two middle values; the quantile is their mean.
    return Statistics(len(values), values.mean().item(), bootstrap_interval(values), _quantile(values, 0.5), deviation)


def bootstrap_interval(values: Tensor) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean, which depends on the values alone.

    Args:
        values: float64 tensor (images,), at least one value.

    Returns:
        Lower and upper end: 95 % of the means of 10,000 draws of as many images, with replacement, lie between them.
    """
    generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)
    count = len(values)
    # In portions, as all draws of thousands of images at once would take gigabytes.
    means = torch.cat(
        [
            values[torch.randint(count, (DRAWS_AT_ONCE, count), generator=generator)].mean(1)
            for _ in range(BOOTSTRAP_DRAWS // DRAWS_AT_ONCE)
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    return _quantile(means, tail), _quantile(means, 1 - tail)


def _quantile(values: Tensor, share: float) -> float:
    return values.quantile(share).item()
