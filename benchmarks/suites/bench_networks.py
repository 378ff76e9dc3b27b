"""The whole network: plain, compiled, fast, folded, and inference engines.

Run: python -m pytest benchmarks/suites/bench_networks.py [-k TEXT] [--benchmark-json FILE]
"""

from __future__ import annotations

import pytest

from benchmarks.cases import Case
from benchmarks.suites.conftest import CLOCK, Reporter, parametrized


@pytest.mark.benchmark(timer=CLOCK)
@parametrized("network")
def test_network(case: Case, provider: str, report: Reporter) -> None:
    report(case, provider)
