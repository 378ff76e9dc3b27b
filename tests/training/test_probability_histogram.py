"""Scores at thresholds and calibration from histograms, against full passes and numbers computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastresunet.training.metrics import confusion_counts
from fastresunet.training.probability_histogram import (
    THRESHOLDS,
    calibration,
    counts_at_thresholds,
    join,
    probability_histogram,
)


def example() -> tuple[Tensor, Tensor]:
    """Return probabilities, every threshold, 0 and 1 among them, and a mask, both (40, 30)."""
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(40, 30, generator=generator)
    probability[0, : len(THRESHOLDS)] = torch.tensor(THRESHOLDS)
    probability[1, :2] = torch.tensor([0.0, 1.0])
    return probability, torch.rand(40, 30, generator=generator) < probability**2


def test_thresholds_are_those_asked_for() -> None:
    assert list(THRESHOLDS) == pytest.approx([0.05 * step for step in range(1, 20)])


@pytest.mark.parametrize("position", range(len(THRESHOLDS)), ids=[f"{value:.2f}" for value in THRESHOLDS])
def test_counts_equal_those_of_a_full_pass(position: int) -> None:
    probability, target = example()
    found = counts_at_thresholds(probability_histogram(probability, target))
    expected = confusion_counts((probability > THRESHOLDS[position])[None], target[None])
    assert torch.equal(found[:, position], expected)


def test_images_stay_apart() -> None:
    probability, target = example()
    joint = join([probability_histogram(probability, target), probability_histogram(1 - probability[:5], target[:5])])
    alone = counts_at_thresholds(probability_histogram(1 - probability[:5], target[:5]))
    assert torch.equal(counts_at_thresholds(joint)[1:], alone)


def test_calibration_by_hand() -> None:
    probability = torch.tensor([[0.25, 0.25, 0.25, 0.25, 1.0]])
    target = torch.tensor([[True, False, False, False, False]])
    second = torch.tensor([[0.75, 0.75, 0.85]]), torch.tensor([[True, False, True]])
    found = calibration(join([probability_histogram(probability, target), probability_histogram(*second)]))
    assert found.pixels.tolist() == [0, 0, 4, 0, 0, 0, 0, 2, 1, 1]
    filled = found.pixels > 0
    assert found.predicted[filled].tolist() == pytest.approx([0.25, 0.75, 0.85, 1.0])
    assert found.observed[filled].tolist() == [0.25, 0.5, 1, 0]
    assert found.predicted[~filled].isnan().all()
    assert found.observed[~filled].isnan().all()
    assert found.expected_error == pytest.approx((4 * 0 + 2 * 0.25 + 1 * 0.15 + 1 * 1) / 8)
