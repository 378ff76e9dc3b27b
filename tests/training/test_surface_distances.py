"""Distances between outlines, against numbers computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastresunet.training.surface_distances import measure_surface_distances


def rectangle(top: int, bottom: int, left: int, right: int) -> Tensor:
    """Return a mask of 40x50 pixels that is true in a rectangle."""
    mask = torch.zeros(40, 50, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_equal_masks_have_no_distance() -> None:
    mask = rectangle(5, 20, 5, 30)
    assert measure_surface_distances(mask, mask).tolist() == [0, 0]


def test_distances_of_two_lines_are_in_pixels() -> None:
    # All points of the two lines, one pixel wide, are seven pixels from the other line.
    distances = measure_surface_distances(rectangle(10, 11, 5, 45), rectangle(17, 18, 5, 45))
    assert distances.tolist() == pytest.approx([7, 7])


def test_average_counts_both_directions_and_the_percentile_leaves_out_a_speck() -> None:
    # The line of 40 points and the same line with one point more, 20 pixels away.
    line = rectangle(10, 11, 5, 45)
    distances = measure_surface_distances(line, line | rectangle(30, 31, 20, 21))
    assert distances.tolist() == pytest.approx([0, 20 / 81])


@pytest.mark.parametrize("empty", ["prediction", "truth", "both"])
def test_empty_masks_have_no_distances(empty: str) -> None:
    nothing, something = rectangle(0, 0, 0, 0), rectangle(5, 9, 5, 9)
    prediction = something if empty == "truth" else nothing
    truth = something if empty == "prediction" else nothing
    assert measure_surface_distances(prediction, truth).isnan().all()
