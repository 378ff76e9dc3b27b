"""Time functions in turn, so that all of them see the same machine, and keep every sample.

On a GPU a sample is what CUDA events measure between the first and the last kernel of a call, after the L2 cache has
been overwritten. Elsewhere it is wall-clock time.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

# Larger than the last-level cache of any GPU in ``benchmarks.gpus``.
_FLUSHED_BYTES = 512 * 2**20


class Clock(Protocol):
    """Measures how long functions take."""

    def measure(self, functions: Sequence[Callable[[], object]]) -> list[float]:
        """Call each function once, in the given order, and return the seconds of each."""
        ...

    def now(self) -> float:
        """Return seconds from some fixed moment, for budgets."""
        ...


class HostClock:
    """Wall-clock time."""

    def measure(self, functions: Sequence[Callable[[], object]]) -> list[float]:
        """Call each function once and return the seconds of each."""
        seconds = []
        for function in functions:
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        return seconds

    def now(self) -> float:
        """Return the monotonic time."""
        return time.monotonic()


class CudaClock:
    """Time on a GPU between events before and after a call, with a cold L2 cache.

    Args:
        device: of the functions to measure.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.int8, device=device)

    def measure(self, functions: Sequence[Callable[[], object]]) -> list[float]:
        """Call each function once and return the seconds of each.

        The host waits only at the end of each call: what it prepares while the cache is overwritten is not hidden from
        the measurement if the GPU has to wait for it later.
        """
        seconds = []
        for function in functions:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flushed.zero_()
            start.record()
            function()
            end.record()
            torch.cuda.synchronize(self._device)
            seconds.append(start.elapsed_time(end) / 1e3)
        return seconds

    def now(self) -> float:
        """Return the monotonic time of the host."""
        return time.monotonic()


def clock_for(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        warmups: calls of each function before the first sample.
        least: samples of each function, however long they take.
        most: samples of each function at most.
        seconds: after which no further round begins.
    """

    warmups: int = 3
    least: int = 5
    most: int = 100
    seconds: float = 3.0


def interleaved(
    functions: Mapping[str, Callable[[], object]], clock: Clock, effort: Effort, seed: int = 0
) -> dict[str, list[float]]:
    """Return samples of every function, in seconds, taken in rounds of one each.

    The order within a round is shuffled: no function always runs after the same other one.

    Args:
        functions: what to time, by name.
        clock: measures them.
        effort: how long.
        seed: of the order.
    """
    names, order = list(functions), random.Random(seed)
    for _ in range(effort.warmups):
        clock.measure([functions[name] for name in names])
    samples: dict[str, list[float]] = {name: [] for name in names}
    start = clock.now()
    for count in range(effort.most):
        if count >= effort.least and clock.now() - start > effort.seconds:
            break
        order.shuffle(names)
        for name, seconds in zip(names, clock.measure([functions[name] for name in names]), strict=True):
            samples[name].append(seconds)
    return {name: samples[name] for name in functions}


@dataclass(frozen=True)
class Spread:
    """Median and the 20th and 80th percentile of samples, in their unit."""

    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Return the spread of at least one sample; percentiles are interpolated."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        p20, *_, p80 = statistics.quantiles(samples, n=5, method="inclusive")
        return cls(statistics.median(samples), p20, p80)

    @property
    def noise(self) -> float:
        """Half the distance between the percentiles, as a share of the median."""
        return (self.p80 - self.p20) / 2 / self.median
