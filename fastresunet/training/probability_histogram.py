"""Count probabilities by true class: from that follow the scores at other thresholds, and the calibration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Scores are given at the thresholds between two bins, 0.05 to 0.95.
BINS = 20
THRESHOLDS = tuple(index / BINS for index in range(1, BINS))
CALIBRATION_BINS = 10


class ProbabilityHistogram(NamedTuple):
    """Probabilities of each image in 20 bins of equal width; a bin includes its upper end.

    Args:
        counts: int64 tensor (images, 2, 20) of background pixels and foreground pixels by their probability.
        sums: float64 tensor (images, 20), sum of the probabilities in each bin.
    """

    counts: Tensor
    sums: Tensor


class Calibration(NamedTuple):
    """Predicted probability against observed frequency, over the pixels of all images.

    Args:
        pixels: int64 tensor (10,), pixels whose probability lies in each tenth of 0..1.
        predicted: float64 tensor (10,), their mean probability; NaN where there is no pixel.
        observed: float64 tensor (10,), share of them that is foreground; NaN where there is no pixel.
    """

    pixels: Tensor
    predicted: Tensor
    observed: Tensor

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean over the pixels of what predicted and observed differ by in their bin."""
        differences = (self.predicted - self.observed).abs().nan_to_num()
        return (differences * self.pixels).sum().item() / self.pixels.sum().item()


def probability_histogram(probability: Tensor, target: Tensor) -> ProbabilityHistogram:
    """Count the probabilities of one image.

    Args:
        probability: float32 tensor (H, W) in 0..1.
        target: bool tensor (H, W), true where foreground is.

    Returns:
        Histogram of one image.
    """
    probability, target = probability.flatten(), target.flatten()
    # As `probability > threshold` compares: in float32, and what equals a threshold is not above it.
    bins = torch.bucketize(probability, torch.tensor(THRESHOLDS, dtype=torch.float32))
    counts = torch.bincount(bins + BINS * target, minlength=2 * BINS).view(1, 2, BINS)
    sums = torch.bincount(bins, probability.double(), minlength=BINS).view(1, BINS)
    return ProbabilityHistogram(counts, sums)


def join(histograms: list[ProbabilityHistogram]) -> ProbabilityHistogram:
    """Return the histograms of all images as one.

    Args:
        histograms: at least one histogram.
    """
    counts, sums = zip(*histograms, strict=True)
    return ProbabilityHistogram(torch.cat(counts), torch.cat(sums))


def counts_at_thresholds(histogram: ProbabilityHistogram) -> Tensor:
    """Count pixels by predicted and true class for every threshold in ``THRESHOLDS``.

    Args:
        histogram: probabilities of each image.

    Returns:
        int64 tensor (images, 19, 4) in the order of ``metrics.COUNTS``.
    """
    # Pixels in the bins up to each threshold are predicted background, the others foreground.
    not_above = histogram.counts.cumsum(-1)
    above = not_above[..., -1:] - not_above
    (true_negatives, false_negatives), (false_positives, true_positives) = (
        counts[..., :-1].unbind(1) for counts in (not_above, above)
    )
    return torch.stack([true_positives, false_positives, true_negatives, false_negatives], dim=-1)


def calibration(histogram: ProbabilityHistogram) -> Calibration:
    """Compare predicted probabilities with how often their pixels are foreground.

    Args:
        histogram: probabilities of each image; every pixel of every image weighs the same.
    """
    background, foreground = histogram.counts.sum(0).view(2, CALIBRATION_BINS, -1).sum(-1)
    pixels = background + foreground
    return Calibration(
        pixels,
        histogram.sums.sum(0).view(CALIBRATION_BINS, -1).sum(-1) / pixels,
        foreground / pixels.double(),
    )
