"""Interleaving, budgets and percentiles, with a clock that only advances as told."""

from __future__ import annotations

import pytest

from benchmarks.timing import Effort, Spread, interleaved
from tests.benchmarks.conftest import FakeClock

FUNCTIONS = {"slow": lambda: "slow", "fast": lambda: "fast"}


def test_every_round_measures_every_function_once() -> None:
    clock = FakeClock({"slow": 3, "fast": 1})
    samples = interleaved(FUNCTIONS, clock, Effort(warmups=2, least=4, most=4, seconds=0))
    assert samples == {"slow": [3] * 4, "fast": [1] * 4}
    rounds = [clock.order[k : k + 2] for k in range(0, len(clock.order), 2)]
    assert len(rounds) == 6
    assert all(sorted(names) == ["fast", "slow"] for names in rounds)


def test_the_order_within_rounds_changes() -> None:
    clock = FakeClock({"slow": 3, "fast": 1})
    interleaved(FUNCTIONS, clock, Effort(warmups=0, least=20, most=20))
    assert len({tuple(clock.order[k : k + 2]) for k in range(0, 40, 2)}) == 2


@pytest.mark.parametrize(
    ("effort", "expected"), [(Effort(0, 2, 100, 10), 3), (Effort(0, 5, 100, 10), 5), (Effort(0, 1, 2, 10), 2)]
)
def test_rounds_end_with_the_budget_but_not_before_the_least_number(effort: Effort, expected: int) -> None:
    samples = interleaved(FUNCTIONS, FakeClock({"slow": 3, "fast": 1}), effort)
    assert [len(values) for values in samples.values()] == [expected, expected]


def test_spread() -> None:
    spread = Spread.of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    assert (spread.median, spread.p20, spread.p80) == (3.5, 2.0, 5.0)
    assert spread.noise == pytest.approx(1.5 / 3.5)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)
