"""Compile one baseline for one case and leave it in Inductor's cache, where the phase that times it finds it.

Run by ``benchmarks.gpu_check``: python -m benchmarks.gpu_check.baselines PROVIDER MODE BATCH SIZE
"""

from __future__ import annotations

import sys
import time

from benchmarks.gpu_check.network_times import PRECISION, case_key
from benchmarks.gpu_check.start import started
from benchmarks.gpu_check.worker import first_line
from benchmarks.precision import PRECISIONS
from benchmarks.providers import PROVIDERS, build
from benchmarks.work import MODES


def main() -> None:
    """Build the step, run it once, and say that it is compiled, or why not."""
    worker, stage = started(sys.argv)
    provider, name, batch, size = PROVIDERS[sys.argv[1]], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    mode = next(mode for mode in MODES if mode == name)
    key, start = f"{case_key(mode, batch, size)}: {provider.name}", time.monotonic()
    problem = ""
    try:
        with worker.watched(key, stage.device):
            step = build(provider, stage.subject, mode, PRECISIONS[PRECISION], batch, size, stage.device)
            step()
    except Exception as error:  # compilers fail in many ways
        problem = first_line(error)
    seconds = round(time.monotonic() - start, 1)
    worker.done(key, {"seconds": seconds, "problem": problem})
    worker.fact(f"compiled {key}", problem or seconds)


if __name__ == "__main__":
    main()
