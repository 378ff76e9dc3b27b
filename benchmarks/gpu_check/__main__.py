"""Check and measure on a GPU within minutes: what matters most first, everything written as it comes.

Needs PyTorch, Triton and this folder: nothing is installed, no network is used. The kernels need not be installed
either: their folder is put on the path under the name of their package. A wrong kernel, a crash or a hang is named, and
the rest goes on. Exits with 1 if something is wrong, with 2 without a GPU.

Phases, in this order; while baselines compile, those run that measure no times:

{phases}

Run: python -m benchmarks.gpu_check --out FOLDER [--seconds 520] [--phases checks,networks] [--triton-cache FILE]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

# Only what comes with Python: everything else is imported by the processes that are started, and may fail there.
from benchmarks import carried_cache
from benchmarks.gpu_check import files, plan
from benchmarks.gpu_check.processes import ROOT
from benchmarks.gpu_check.schedule import Finding, Phase, Schedule
from benchmarks.gpu_check.table import table
from benchmarks.gpu_check.verdict import problems

_RESERVE = 8.0  # seconds kept for files and table


def why_no_gpu(environment: Mapping[str, str]) -> str:
    """Return "" if PyTorch sees a GPU, otherwise why it does not."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'none')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if found.returncode:
        return f"PyTorch cannot be imported: {found.stderr.strip().splitlines()[-1]}"
    return "" if found.stdout.strip() != "none" else "PyTorch sees no GPU (torch.cuda.is_available() is False)"


@contextmanager
def environment_with_kernels(caches: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of all processes, in which the kernels are importable, and caches are shared.

    Args:
        caches: folder that Triton's kernels are kept in; the next run on this machine finds them.
    """
    with tempfile.TemporaryDirectory() as path:
        (Path(path) / "fastresunet_kernels").symlink_to(ROOT / "kernels", target_is_directory=True)
        inherited = os.environ.get("PYTHONPATH")
        paths = [path, str(ROOT), *([inherited] if inherited else [])]
        yield {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "TRITON_CACHE_DIR": str(caches / "triton"),
            # Of this run alone: a compiler that is ended for want of time leaves files cut short.
            "TORCHINDUCTOR_CACHE_DIR": str(Path(path) / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "4",  # of each of several processes that compile
        }


def check(
    phases: Sequence[Phase], environment: Mapping[str, str], out: Path, seconds: float, facts: dict[str, Any]
) -> bool:
    """Run phases, write what they find after each, print the table last, and return whether all is right.

    Args:
        phases: most telling first.
        environment: of their processes.
        out: folder for the files.
        seconds: for everything.
        facts: known beforehand.
    """
    shown: list[Finding] = []

    def report(findings: list[Finding]) -> None:
        for finding in findings[len(shown) :]:
            shown.append(finding)
            print(finding.text, flush=True)
        files.write(out, files.contents(findings, schedule.facts))

    schedule = Schedule(environment, seconds - _RESERVE, report)
    schedule.facts |= facts
    try:
        schedule.run(phases)
    except KeyboardInterrupt:
        print("interrupted: what was found until then follows")
    findings = schedule.findings
    files.write(out, files.contents(findings, schedule.facts))
    print(f"\nfiles are in {out}")
    print("\n".join(table(findings, schedule.facts)), flush=True)
    return not problems(findings)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that whoever ends this, such as a time limit, still gets files and table


def main() -> None:
    """Check, measure, and say how it went."""
    listed = "\n".join(f"* {name}: {description}" for name, description in plan.PHASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=(__doc__ or "").format(phases=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the seven files of what is found")
    parser.add_argument("--seconds", type=float, default=520.0, help="for everything (default: 520)")
    parser.add_argument("--phases", default=",".join(plan.PHASES), help="names with commas between (default: all)")
    parser.add_argument("--triton-cache", type=Path, help="file of benchmarks.prewarm: kernels compiled elsewhere")
    parser.add_argument("--rehearse", action="store_true", help="take every step without a GPU, on a tiny network")
    options = parser.parse_args()
    names = options.phases.split(",")
    unknown = [name for name in names if name not in plan.PHASES]
    if unknown:
        parser.error(f"no phase is called {', '.join(unknown)}; there are {', '.join(plan.PHASES)}")
    start, out = time.monotonic(), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    caches = Path(tempfile.gettempdir()) / f"fastresunet-gpu-check-{os.getuid()}"
    caches.mkdir(mode=0o700, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    facts: dict[str, Any] = {}
    with environment_with_kernels(caches) as environment:
        if not options.rehearse:
            obstacle = why_no_gpu(environment)
            if obstacle:
                print(f"Nothing was checked: {obstacle}. --rehearse takes every step without a GPU.")
                sys.exit(2)
        if options.triton_cache is not None:
            facts["carried cache"] = carried_cache.unpack(options.triton_cache, Path(environment["TRITON_CACHE_DIR"]))
            print(facts["carried cache"])
        workers = 1 if options.rehearse else max(1, min(8, (os.cpu_count() or 1) // 2))
        phases = plan.phases(names, workers, options.rehearse)
        right = check(phases, environment, out, options.seconds - (time.monotonic() - start), facts)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
