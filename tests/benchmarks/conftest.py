"""Small subjects and made-up results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from benchmarks.results import Key, Report, Result

SMALL = (8, 8, 8, 16, 16)
RATES = (1, 3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Leave the other cores alone: these networks are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class FakeClock:
    """Time that passes only as the functions say, in seconds.

    Args:
        durations: of each function, by what it returns.
    """

    def __init__(self, durations: dict[str, float]) -> None:
        self.durations = durations
        self.order: list[str] = []
        self.time = 0.0

    def measure(self, functions: Sequence[Callable[[], Any]]) -> list[float]:
        """Call the functions and let their time pass."""
        names = [function() for function in functions]
        self.order += names
        self.time += sum(self.durations[name] for name in names)
        return [self.durations[name] for name in names]

    def now(self) -> float:
        """Return the time that has passed."""
        return self.time


def result(provider: str, seconds: list[float], **changes: Any) -> Result:
    """Return a result of the network."""
    key = {"group": "network", "subject": "network", "mode": "training", "precision": "bf16", "batch": 8, "size": 256}
    values = {name: changes.pop(name) for name in list(changes) if name in key}
    return Result(Key(**{**key, **values, "provider": provider}), seconds=seconds, **changes)


def report(results: list[Result], machine: str = "a machine") -> Report:
    """Return results as a file holds them."""
    described = {
        "name": machine,
        "processor": "a processor",
        "threads": 1,
        "python": "3",
        "cuda": "none",
        "cudnn": "none",
        "gpu": "not available: none",
        "versions": {"torch": "2"},
        "revision": "abc",
        "flags": {},
    }
    return Report(described, {}, results)
