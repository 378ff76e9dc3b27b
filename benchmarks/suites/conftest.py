"""Fixtures of the suites: the cases, and a measurement of one case that its providers report one after the other.

The cases are those of ``make bench``, with ``--every-case`` those of ``make bench-full``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.cases import Case, select
from benchmarks.machine import gpu_of
from benchmarks.results import Result
from benchmarks.run import Runner
from benchmarks.timing import Effort, clock_for

Reporter = Callable[[Case, str], None]


class ReplayedClock:
    """A timer for pytest-benchmark that advances by given seconds between each odd and even call.

    Cases are timed in turn with the clock of their device; pytest-benchmark times one function after the other with the
    host's. So it is given the samples that were taken, instead of taking its own.
    """

    def __init__(self) -> None:
        self.replay([])

    def replay(self, seconds: list[float]) -> None:
        """Give these durations from now on."""
        self._moments: Iterator[float] = itertools.chain.from_iterable((0.0, duration) for duration in seconds)

    def __call__(self) -> float:
        """Return the next moment."""
        return next(self._moments)


CLOCK = ReplayedClock()


_latest: dict[tuple[str, tuple[str, ...]], list[Result]] = {}


def measured(case: Case) -> list[Result]:
    """Return the results of a case, measured once: pytest asks for one provider after the other."""
    key = (str(case), case.providers)
    if key not in _latest:
        device = _device()
        runner = Runner(device, clock_for(device), Effort(warmups=2, least=5, most=30, seconds=1.5), gpu_of(device))
        _latest.clear()
        _latest[key] = runner.run(case)
    return _latest[key]


@pytest.fixture
def report(benchmark: Any) -> Reporter:
    """Return a function that reports one provider of a case to pytest-benchmark, or skips or fails with the reason."""

    def give(case: Case, provider: str) -> None:
        result = next(result for result in measured(case) if result.key.provider == provider)
        if result.obstacle.startswith("wrong result"):
            pytest.fail(result.obstacle)
        if result.obstacle:
            pytest.skip(result.obstacle)
        CLOCK.replay(result.seconds)
        benchmark.group = str(case)
        benchmark.extra_info.update(verdict=result.verdict, kept_bytes=result.kept_bytes, peak=result.peak)
        benchmark.pedantic(lambda: None, rounds=len(result.seconds))

    return give


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for all cases."""
    parser.addoption("--every-case", action="store_true", help="all sizes, batches, modes and precisions, for hours")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a suite the cases of its group on this machine's device, each with each of its providers."""
    cases = select(_device().type, full=metafunc.config.getoption("--every-case"))
    pairs = [
        pytest.param(case, provider, id=f"{case}: {provider}".replace(" ", "_"))
        for case in cases
        if case.group == metafunc.module.GROUP
        for provider in case.providers
    ]
    metafunc.parametrize(("case", "provider"), pairs)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
