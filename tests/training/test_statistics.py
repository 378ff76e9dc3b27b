"""Mean, interval, median and spread of scores, against numbers computed by hand and SciPy's bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from fastresunet.training.statistics import bootstrap_interval, describe


def test_values_by_hand() -> None:
    found = describe(torch.tensor([1.0, 2.0, 4.0, 9.0, math.nan], dtype=torch.float64))
    assert (found.images, found.mean, found.median) == (4, 4, 3)
    assert found.standard_deviation == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3))


def test_interval_is_the_percentile_bootstrap() -> None:
    values = torch.rand(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = scipy.stats.bootstrap((values.numpy(),), np.mean, n_resamples=10_000, method="percentile")
    # Two runs of 10,000 draws differ by less than a twentieth of the interval's width.
    tolerance = (expected.confidence_interval.high - expected.confidence_interval.low) / 20
    assert bootstrap_interval(values) == pytest.approx(tuple(expected.confidence_interval), abs=tolerance)


def test_interval_repeats_and_leaves_the_random_state_alone() -> None:
    values = torch.arange(20, dtype=torch.float64)
    state = torch.get_rng_state()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_single_image_has_no_spread() -> None:
    found = describe(torch.tensor([0.5]))
    assert (found.mean, found.interval, found.median) == (0.5, (0.5, 0.5), 0.5)
    assert math.isnan(found.standard_deviation)


def test_no_image_has_no_score() -> None:
    found = describe(torch.tensor([math.nan, math.nan]))
    assert found.images == 0
    assert all(math.isnan(value) for value in (found.mean, *found.interval, found.median, found.standard_deviation))
