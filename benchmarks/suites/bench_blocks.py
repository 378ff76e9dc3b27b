"""Each block of the network, plain and fast.

Run: python -m pytest benchmarks/suites/bench_blocks.py [--every-case] [-k TEXT] [--benchmark-json FILE]
"""

from __future__ import annotations

import pytest

from benchmarks.cases import Case
from benchmarks.suites.conftest import CLOCK, Reporter

GROUP = "block"


@pytest.mark.benchmark(timer=CLOCK)
def test_block(case: Case, provider: str, report: Reporter) -> None:
    report(case, provider)
