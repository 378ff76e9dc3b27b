"""The whole network: plain, compiled, fast, and inference engines.

Run: python -m pytest benchmarks/suites/bench_networks.py [--every-case] [-k TEXT] [--benchmark-json FILE]
"""

from __future__ import annotations

import pytest

from benchmarks.cases import Case
from benchmarks.suites.conftest import CLOCK, Reporter

GROUP = "network"


@pytest.mark.benchmark(timer=CLOCK)
def test_network(case: Case, provider: str, report: Reporter) -> None:
    report(case, provider)
