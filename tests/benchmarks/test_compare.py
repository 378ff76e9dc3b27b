"""Changes between files, and when they count."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare import changes, lost
from tests.benchmarks.conftest import report, result

STEADY = [1.0, 1.01, 1.02, 1.0, 1.01]
NOISY = [0.5, 1.0, 1.2, 2.0, 1.5]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (STEADY, STEADY, "same"),
        (STEADY, [1.2 * s for s in STEADY], "slower"),
        (STEADY, [0.8 * s for s in STEADY], "faster"),
        (STEADY, [1.03 * s for s in STEADY], "same"),
        (NOISY, [1.2 * s for s in NOISY], "same"),
    ],
    ids=["equal", "slower", "faster", "below-threshold", "within-noise"],
)
def test_verdict(before: list[float], after: list[float], verdict: str) -> None:
    (change,) = changes(report([result("eager", before)]), report([result("eager", after)]))
    assert change.verdict(0.05) == verdict


def test_a_case_that_was_measured_twice_counts_once() -> None:
    twice = report([result("eager", [2.0] * 5), result("eager", STEADY)])
    (change,) = changes(twice, twice)
    assert change.verdict(0.05) == "same"


def test_what_is_not_measured_any_more_is_lost() -> None:
    before = report([result("eager", STEADY), result("folded", STEADY)])
    after = report([result("eager", STEADY), result("folded", [], obstacle="wrong result")])
    (line,) = lost(before, after)
    assert line.endswith("folded: wrong result")


@pytest.mark.parametrize(
    ("factor", "machine", "status"), [(1.0, "a machine", 0), (1.5, "a machine", 1), (1.0, "another", "two machines")]
)
def test_exit_status(
    factor: float, machine: str, status: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "before.json", tmp_path / "after.json"]
    report([result("eager", STEADY)]).write(files[0])
    report([result("eager", [factor * s for s in STEADY])], machine).write(files[1])
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, files)])
    with pytest.raises(SystemExit) as exit_:
        compare.main()
    assert str(exit_.value.code).startswith(str(status))
