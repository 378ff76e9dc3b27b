"""Each operation of the network at its sizes, fused and in plain PyTorch.

Run: python -m pytest benchmarks/suites/bench_layers.py [--every-case] [-k TEXT] [--benchmark-json FILE]
"""

from __future__ import annotations

import pytest

from benchmarks.cases import Case
from benchmarks.suites.conftest import CLOCK, Reporter

GROUP = "layer"


@pytest.mark.benchmark(timer=CLOCK)
def test_layer(case: Case, provider: str, report: Reporter) -> None:
    report(case, provider)
