"""Kept activations against a count by hand; the search for the largest batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.memory import kept_bytes, largest_batch
from benchmarks.precision import PRECISIONS
from benchmarks.work import Work, step_of


def test_kept_bytes_count_what_backward_needs_once() -> None:
    images = torch.rand(2, 3, 4, 5)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Sigmoid())
    step = step_of(Work(module, (images,), list(module.parameters()), images.device), "training", PRECISIONS["fp32"])
    # The sigmoid keeps its result; the convolution keeps the image and its weight, which were given.
    assert kept_bytes(step) == 2 * 6 * 4 * 5 * 4


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 17, 64, 100])
def test_largest_batch(limit: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    assert largest_batch(fits) == limit
    assert len(tried) == len(set(tried)) <= 16


def test_largest_batch_stops_at_the_limit() -> None:
    assert largest_batch(lambda batch: True, limit=48) == 48
