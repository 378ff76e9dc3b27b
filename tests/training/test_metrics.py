"""Scores against numbers computed by hand."""

from __future__ import annotations

import pytest
import torch

from fastresunet.training.metrics import (
    METRICS,
    best_constant_dice,
    confusion_counts,
    dataset_scores,
    image_means,
    scores,
)


def test_counts_of_each_image() -> None:
    prediction = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]]).bool()
    target = torch.tensor([[[1, 0, 1, 0]], [[0, 0, 0, 1]]]).bool()
    assert confusion_counts(prediction, target).tolist() == [[1, 1, 1, 1], [0, 0, 3, 1]]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # dice, iou, miou, recall, precision, f2, accuracy
        ((6, 2, 88, 4), (12 / 18, 6 / 12, (6 / 12 + 88 / 94) / 2, 6 / 10, 6 / 8, 30 / 48, 94 / 100)),
        ((10, 0, 90, 0), (1, 1, 1, 1, 1, 1, 1)),
        ((0, 0, 100, 0), (1, 1, 1, 1, 1, 1, 1)),
        ((100, 0, 0, 0), (1, 1, 1, 1, 1, 1, 1)),
        ((0, 5, 95, 0), (0, 0, 0.475, 0, 0, 0, 0.95)),
        ((0, 0, 95, 5), (0, 0, 0.475, 0, 0, 0, 0.95)),
        ((0, 100, 0, 0), (0, 0, 0, 0, 0, 0, 0)),
    ],
    ids=[
        "typical",
        "perfect",
        "both empty",
        "both full",
        "empty mask, some predicted",
        "nothing predicted",
        "empty mask, all predicted",
    ],
)
def test_scores_by_hand(counts: tuple[int, ...], expected: tuple[float, ...]) -> None:
    found = scores(torch.tensor(counts))
    assert [found[name].item() for name in METRICS] == pytest.approx(list(expected))


def test_image_mean_and_dataset_level_differ_in_weight() -> None:
    counts = torch.tensor([[10, 0, 90, 0], [1, 1, 1, 1]])
    assert image_means(counts)["dice"] == pytest.approx((1 + 0.5) / 2)
    assert dataset_scores(counts)["dice"] == pytest.approx(22 / 24)


def test_best_constant_prediction() -> None:
    # All foreground scores 2 * 30 / 130 on the first and 0 on the second image; all background 0 and 1.
    counts = torch.tensor([[[20, 0, 70, 10]], [[0, 5, 95, 0]]])
    assert best_constant_dice(counts) == pytest.approx(0.5)
    assert best_constant_dice(counts[:1]) == pytest.approx(60 / 130)
