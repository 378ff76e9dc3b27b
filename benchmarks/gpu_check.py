"""Check and measure on a GPU within minutes: what matters most first, everything written as it comes.

Needs PyTorch, Triton and this folder: nothing is installed, no network is used. The kernels need not be installed
either: their folder is put on the path under the name of their package. Without a GPU it does what needs none, says so
and exits with 2; it exits with 1 if something is wrong.

Run: python -m benchmarks.gpu_check --out FOLDER [--seconds 470]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Only what comes with Python: everything else is imported by the commands that are run, and may fail there.
ROOT = Path(__file__).parents[1]
_GRACE = 20.0  # seconds a command has to end by itself after its time
_REPORT = 40.0  # seconds kept for rendering the report, _GRACE among them


@dataclass(frozen=True)
class Phase:
    """Commands that run side by side.

    Attributes:
        name: of the phase, and of its log.
        commands: arguments of Python for each process.
        seconds: they may take; less where less is left.
    """

    name: str
    commands: Sequence[Sequence[str]]
    seconds: float


@dataclass
class Outcome:
    """How a phase ended: exit statuses (``None``: stopped for want of time), seconds, and what was checked in it."""

    name: str
    seconds: float
    statuses: list[int | None] = field(default_factory=list)
    checked: int = 0
    unchecked: int = 0

    @property
    def counted(self) -> str:
        """How much of a check was done, "" if it was none."""
        if not self.checked + self.unchecked:
            return ""
        return f", {self.checked} checked, {self.unchecked} without time for them"

    @property
    def text(self) -> str:
        """The outcome in a word or two."""
        if any(status not in (0, None) for status in self.statuses):
            return "FAILED"
        return "stopped for want of time" if None in self.statuses else "passed"


def phases(gpu: bool, workers: int, out: Path) -> list[Phase]:
    """Return what is done, in order.

    Args:
        gpu: whether there is one.
        workers: processes that compile kernels side by side.
        out: folder for results.
    """
    if not gpu:
        check = _checks("check of PyTorch's backend, CPU", "fp32", 1, out, 120, "--device", "cpu", "--backend", "torch")
        small = [[*command, "--size", "32"] for command in check.commands]
        model = Phase("roofline model", [["-m", "benchmarks.roofline", "--gpu", "h100"]], 60)
        return [Phase(check.name, small, check.seconds), model]
    # Compiled kernels are kept on disk: what a check compiles, measuring finds.
    return [
        _checks("defaults, bfloat16", "bf16", workers, out, 110),
        _benchmark("networks", "network network", out, 120),
        _checks("defaults, TF32", "tf32", workers, out, 60),
        _checks("all configurations, bfloat16", "bf16", workers, out, 80, "--configurations"),
        _benchmark("layers", "layer", out, 60),
        _checks("defaults, float16", "fp16", workers, out, 40),
        _checks("all configurations, TF32", "tf32", workers, out, 60, "--configurations"),
        _checks("defaults, float32", "fp32", workers, out, 40),
        _benchmark("blocks", "block", out, 60),
    ]


def _checks(name: str, precision: str, workers: int, out: Path, seconds: float, *options: str) -> Phase:
    commands = []
    for worker in range(workers):
        file = out / f"check-{_file(name)}-{worker}.json"
        command = ["-m", "benchmarks.kernel_check", "--precision", precision, "--share", f"{worker}/{workers}"]
        commands.append([*command, *options, "--out", str(file)])
    return Phase(name, commands, seconds)


def _benchmark(name: str, only: str, out: Path, seconds: float) -> Phase:
    command = ["-m", "benchmarks.run", "--only", only, "--case-seconds", "0.5", "--out", str(out / f"{name}.json")]
    return Phase(f"benchmark of {name}", [command], seconds)


def run(phase: Phase, environment: dict[str, str], out: Path, seconds_left: float) -> Outcome:
    """Run the commands of a phase side by side; their output goes to ``<phase>-<number>.log``.

    Args:
        phase: what to run; each command is told its seconds if it knows ``--seconds``.
        environment: of the processes.
        out: folder for the logs.
        seconds_left: of all phases.
    """
    seconds, start = min(phase.seconds, seconds_left - _GRACE), time.monotonic()
    outcome = Outcome(phase.name, 0.0)
    if seconds <= 0:
        outcome.statuses = [None]
        return outcome
    processes = []
    for number, command in enumerate(phase.commands):
        limited = "benchmarks.roofline" not in command and command[0] == "-m"
        arguments = [sys.executable, *command, *(["--seconds", f"{seconds:.0f}"] if limited else [])]
        with (out / f"{_file(phase.name)}-{number}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    arguments, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            )
    for process in processes:
        outcome.statuses.append(_wait(process, start + seconds + _GRACE - time.monotonic()))
    outcome.seconds = time.monotonic() - start
    return outcome


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with what it compiles
        process.wait()
        return None


def check_all(
    found_phases: Sequence[Phase], out: Path, seconds: float, show: Callable[[str], None] = print
) -> list[Outcome]:
    """Run phases one after the other within a time, with the kernels importable, and write ``summary.json``.

    Args:
        found_phases: most telling first.
        out: folder for everything.
        seconds: for all of them and the report.
        show: prints a line.
    """
    start, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory() as path:
        (Path(path) / "fastresunet_kernels").symlink_to(ROOT / "kernels", target_is_directory=True)
        inherited = os.environ.get("PYTHONPATH")
        paths = [path, str(ROOT), *([inherited] if inherited else [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        for phase in found_phases:
            outcome = run(phase, environment, out, seconds - _REPORT - (time.monotonic() - start))
            outcomes.append(outcome)
            outcome.checked, outcome.unchecked = counts(phase)
            show(f"{outcome.name}: {outcome.text}, {outcome.seconds:.0f} s{outcome.counted}")
            for line in problems(phase, out):
                show(f"  {line}")
            _write_summary(outcomes, out)
        files = [str(out / f"{name}.json") for name in ("networks", "layers", "blocks")]
        existing = [file for file in files if Path(file).exists()]
        if existing:
            report = Phase("report", [["-c", _RENDER, str(out), *existing]], _REPORT)
            outcomes.append(run(report, environment, out, seconds - (time.monotonic() - start)))
            _write_summary(outcomes, out)
    return outcomes


_RENDER = "import sys; from benchmarks.report import main; sys.argv[1:] = [*sys.argv[2:], '--out', sys.argv[1]]; main()"


def counts(phase: Phase) -> tuple[int, int]:
    """Return how many operations and configurations the processes of a phase checked, and had no time for."""
    files = [Path(command[command.index("--out") + 1]) for command in phase.commands if "--share" in command]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    return sum(each["checked"] for each in found), sum(each["unchecked"] for each in found)


def problems(phase: Phase, out: Path) -> list[str]:
    """Return the last lines of the logs of a phase that say what is wrong, some of each."""
    found = []
    for number in range(len(phase.commands)):
        log = out / f"{_file(phase.name)}-{number}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        wrong = [line for line in lines if "WRONG" in line or "wrong result" in line or "Error" in line]
        found += wrong[:3]
    return found[:12]


def _write_summary(outcomes: Sequence[Outcome], out: Path) -> None:
    content = [
        {"phase": o.name, "outcome": o.text, "seconds": round(o.seconds, 1), "counted": o.counted} for o in outcomes
    ]
    (out / "summary.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def why_no_gpu(environment: dict[str, str] | None = None) -> str:
    """Return "" if PyTorch sees a GPU, otherwise why it does not."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'none')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if found.returncode:
        return f"PyTorch cannot be imported: {found.stderr.strip().splitlines()[-1]}"
    return "" if found.stdout.strip() != "none" else "PyTorch sees no GPU (torch.cuda.is_available() is False)"


def _file(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def main() -> None:
    """Check, measure, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is found")
    parser.add_argument("--seconds", type=float, default=470.0, help="for everything (default: 470)")
    options = parser.parse_args()
    start, out = time.monotonic(), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    obstacle = why_no_gpu()
    workers = max(1, min(8, (os.cpu_count() or 1) // 2))
    left = options.seconds - (time.monotonic() - start)
    outcomes = check_all(phases(not obstacle, workers, out), out, left)
    print(f"everything is in {options.out}")
    if any(outcome.text == "FAILED" for outcome in outcomes):
        sys.exit(1)
    if obstacle:
        print(f"Stopped here: {obstacle}. The kernels, their timings and memory need a GPU.")
        sys.exit(2)


if __name__ == "__main__":
    main()
