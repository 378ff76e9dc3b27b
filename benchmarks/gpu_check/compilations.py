"""How many kernels were compiled, and how many were found in Triton's cache: whether a carried cache fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import triton

from benchmarks.gpu_check.worker import Worker


@contextmanager
def counted(worker: Worker, name: str) -> Iterator[None]:
    """Count inside, and say how many as a fact called ``name``."""
    found = {"compiled": 0, "cached": 0, "seconds": 0.0}

    def listen(*, times: Any, cache_hit: bool, **others: Any) -> None:
        found["cached" if cache_hit else "compiled"] += 1
        found["seconds"] += times.total / 1e6  # microseconds
        worker.fact(name, {**found, "seconds": round(found["seconds"], 1)})

    knobs = triton.knobs.compilation
    previous, knobs.listener = knobs.listener, listen
    try:
        yield
    finally:
        knobs.listener = previous
