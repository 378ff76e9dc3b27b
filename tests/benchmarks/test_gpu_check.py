"""The one command for a machine with a GPU: order, time, failures, and what is importable in its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import ROOT, Outcome, Phase, check_all, phases

PRINT = "import fastresunet_kernels, sys; print(fastresunet_kernels.__file__); sys.exit({status})"


def phase(name: str, status: int = 0, seconds: float = 30.0) -> Phase:
    return Phase(name, [["-c", PRINT.format(status=status)]], seconds)


def test_phases_run_in_order_and_their_output_is_kept(tmp_path: Path) -> None:
    shown: list[str] = []
    outcomes = check_all([phase("one"), phase("two", status=1), phase("three")], tmp_path, 120, shown.append)
    assert [(o.name, o.text) for o in outcomes] == [("one", "passed"), ("two", "FAILED"), ("three", "passed")]
    assert [line.partition(",")[0] for line in shown] == ["one: passed", "two: FAILED", "three: passed"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [entry["outcome"] for entry in summary] == ["passed", "FAILED", "passed"]


def test_the_kernels_are_importable_without_being_installed(tmp_path: Path) -> None:
    check_all([phase("path")], tmp_path, 120, lambda line: None)
    file = Path((tmp_path / "path-0.log").read_text().strip())
    # Through the name of the package, not where it may be installed.
    assert file.parent.name == "fastresunet_kernels"
    assert ROOT not in file.parents


def test_a_phase_that_takes_too_long_is_stopped_with_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    waiting = [sys.executable, "-c", code]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert gpu_check._wait(process, 0.5) is None
        assert process.returncode < 0
        assert process.stdout is not None
        assert process.stdout.read() == b""  # ends when nobody holds the other end any more


def test_without_time_nothing_is_started(tmp_path: Path) -> None:
    (outcome,) = check_all([phase("late")], tmp_path, 0, lambda line: None)
    assert outcome.text == "stopped for want of time"
    assert not (tmp_path / "late-0.log").exists()


def test_gpu_phases_share_the_work_and_fit_the_time(tmp_path: Path) -> None:
    found = phases(True, 4, tmp_path)
    shares = [command[command.index("--share") + 1] for command in found[0].commands]
    assert shares == ["0/4", "1/4", "2/4", "3/4"]
    assert "--configurations" not in found[0].commands[0]
    assert found[1].name == "benchmark of networks"
    assert any("--configurations" in p.commands[0] for p in found)
    # The first, most telling ones fit a run of eight minutes beside the report; later ones take what is left.
    assert sum(p.seconds for p in found[:5]) <= 470 - gpu_check._REPORT


def test_time_is_kept_for_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks.json").write_text("{}")
    given: dict[str, float] = {}

    def note(found: Phase, environment: dict[str, str], out: Path, seconds_left: float) -> Outcome:
        given[found.name] = seconds_left
        return Outcome(found.name, 0.0, [0])

    monkeypatch.setattr(gpu_check, "run", note)
    check_all([phase("one")], tmp_path, 470, lambda line: None)
    assert given["one"] <= 470 - gpu_check._REPORT
    assert gpu_check._REPORT < given["report"] <= 470


def test_without_a_gpu_it_does_what_needs_none(tmp_path: Path) -> None:
    commands = [command for p in phases(False, 4, tmp_path) for command in p.commands]
    assert all("cuda" not in command for command in commands)
    assert ["-m", "benchmarks.roofline", "--gpu", "h100"] in commands


def test_why_there_is_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcuda is missing')")
    reason = gpu_check.why_no_gpu({**os.environ, "PYTHONPATH": str(tmp_path)})
    assert reason == "PyTorch cannot be imported: ImportError: libcuda is missing"
