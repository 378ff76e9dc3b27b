"""The files and the table that a run leaves, whatever happens."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import plan
from benchmarks.gpu_check.__main__ import check
from benchmarks.gpu_check.files import contents, write
from benchmarks.gpu_check.schedule import Finding, Phase
from benchmarks.gpu_check.table import MOST_LINES, table
from benchmarks.gpu_check.verdict import problems
from benchmarks.report import table as report_table
from benchmarks.results import Report, by_case
from tests.benchmarks.conftest import report, result
from tests.benchmarks.gpu_check.conftest import environment, task

FILES = {"table.txt", "summary.json", "checks.json", "networks.json", "kernels.json", "layers.json", "log.txt"}


def network(mode: str, shape: str, **seconds: float) -> dict[str, Any]:
    """Return the result of a case as a worker says it."""
    batch, size = map(int, shape.split("x"))
    names = {
        name.replace("_graph", " + CUDA graph").replace("max", "compile max-autotune"): s for name, s in seconds.items()
    }
    results = [result(name, [s], host_seconds=[s / 2], mode=mode, batch=batch, size=size) for name, s in names.items()]
    return {f"{mode} {shape}": [as_dict(each) for each in results]}


def as_dict(each: Any) -> dict[str, Any]:
    """Return a result as JSON holds it."""
    found: dict[str, Any] = json.loads(json.dumps({**vars(each), "key": vars(each.key)}))
    return found


FACTS: dict[str, Any] = {
    "machine": {
        "name": "NVIDIA H100 80GB HBM3",
        "versions": {"torch": "2.11.0", "triton": "3.6.0"},
        "python": "3.12.1",
    },
    "data sheet": {"copy GB/s": 3350, "bf16 TFLOP/s": 989.4},
    "copy GB/s": 2912.3,
    "bf16 TFLOP/s": 712.0,
    "launch us": {"triton": 4.1, "pytorch": 2.9},
    "compilations bf16 0/8": {"compiled": 3, "cached": 17, "seconds": 9.5},
}
KERNEL = {
    "kernel": "forward_kernel",
    "layer": "c1.c1.3",
    "backward": False,
    "launches": 2,
    "us": 91.0,
    "floor_us": 40.0,
}


def findings() -> list[Finding]:
    """Return what a run might find."""
    shapes = [f"{batch}x{size}" for batch, size in ((8, 256), (1, 256), (32, 256), (16, 256), (16, 352), (8, 512))]
    networks: dict[str, Any] = {}
    for shape in shapes:
        for mode in ("training", "evaluation"):
            networks |= network(mode, shape, eager=0.02, eager_graph=0.01, max=0.008, FastResUNetPP_graph=0.004)
    layer = [as_dict(result(name, [s], group="layer")) for name, s in (("eager", 2e-5), ("FastResUNetPP", 1e-5))]
    return [
        Finding(
            "checks", 60, {"conv(a), default": "", "conv(b), default": "result 0: error 1.0"}, ["conv(c): SIGSEGV"]
        ),
        Finding("networks", 90, networks),
        Finding(
            "kernels",
            9,
            {
                "FastResUNetPP, training 8x256": {
                    "launches": 280,
                    "busy_ms": 3.2,
                    "our_kernels_ms": 3.0,
                    "floor_ms": 1.4,
                    "kernels": [KERNEL] * 9,
                }
            },
        ),
        Finding("layers", 30, {f"layer {n}": layer for n in range(9)}),
        Finding("configurations", left=8, stopped=2),
    ]


def test_the_table_says_what_matters_in_few_lines() -> None:
    lines = table(findings(), FACTS)
    text = "\n".join(lines)
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 150
    assert "NVIDIA H100 80GB HBM3, torch 2.11.0, triton 3.6.0" in lines[0]
    assert "copy 2912 GB/s; bf16 712 TFLOP/s; launch us triton 4.1, pytorch 2.9; data sheet 3350 GB/s" in lines[1]
    assert "kernels compiled here: 3, found in Triton's cache: 17" in text
    assert "checks: 1 of 2 right, 1 faults" in text
    assert "  WRONG conv(b), default: result 0: error 1.0" in text
    assert "FAULT conv(c): SIGSEGV" in text
    (line,) = (line for line in lines if line.startswith("training 8x256"))
    assert line.split()[2:] == ["20/10", "-/-", "-/-", "8/-", "-/4", "-/-", "2.00x", "10,", "-"]
    assert "forward_kernel, c1.c1.3 forward x2: 91.0 us, floor 40.0" in text
    assert "layers: 9 of 9 faster" in text
    assert lines[-1] == "without time: configurations (8 left, 2 stopped)"


def test_a_table_of_too_much_is_cut() -> None:
    broken = [Finding(f"phase {n}", faults=[f"unit {n}: SIGSEGV"]) for n in range(100)]
    lines = table(broken, {})
    assert len(lines) == MOST_LINES
    assert lines[-1] == "... 62 more lines: see summary.json"


def test_there_are_seven_files_that_hold_everything(tmp_path: Path) -> None:
    facts = {**FACTS, "report of networks": report([]).as_dict()}
    assert write(tmp_path, contents(findings(), facts))
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert json.loads((tmp_path / "summary.json").read_text())["phases"][0]["faults"] == ["conv(c): SIGSEGV"]
    networks = Report.read(tmp_path / "networks.json")
    assert len(networks.results) == 12 * 4
    assert "FastResUNetPP + CUDA graph" in report_table(list(by_case(networks.results).items()))


def full(*arguments: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_the_table_still_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "write_text", full)
    phases = [Phase("checks", [task("a", "one", "wrong two")], 30), Phase("layers", [], 30)]
    assert not check(phases, environment(), tmp_path, 60, {})
    output = capsys.readouterr().out
    assert "table.txt cannot be written, the run goes on: [Errno 28] No space left on device" in output
    assert "checks: 1 of 2 right, 0 faults" in output.splitlines()
    assert list(tmp_path.iterdir()) == []


def test_files_are_replaced_after_every_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "benchmarks.gpu_check.files.write", lambda out, texts: seen.append(json.loads(texts["checks.json"]))
    )
    check(
        [Phase("checks", [task("a", "one")], 30), Phase("precisions", [task("b", "two")], 30)],
        environment(),
        tmp_path,
        60,
        {},
    )
    assert seen[0] == {"checks": {"one": ""}}
    assert seen[1] == {"checks": {"one": ""}, "precisions": {"two": ""}}


def test_all_right_is_success(tmp_path: Path) -> None:
    assert check([Phase("checks", [task("a", "one")], 30)], environment(), tmp_path, 60, {})
    assert not check([Phase("networks", [task("a", "crash")], 30)], environment(), tmp_path, 60, {})


def test_a_wrong_network_or_layer_is_no_success() -> None:
    right = as_dict(result("FastResUNetPP", [1e-3]))
    wrong = {**right, "obstacle": "wrong result: error 2.0"}
    for phase in ("networks", "layers"):
        assert problems([Finding(phase, 1, {"case": [right]})]) == []
        assert problems([Finding(phase, 1, {"case": [right, wrong]})]) == [
            "case, FastResUNetPP: wrong result: error 2.0"
        ]


def test_checking_nothing_is_no_success() -> None:
    assert problems([Finding("checks", left=8), Finding("networks", left=1)]) == ["nothing was checked in checks"]
    assert problems([Finding("checks", 1, {"a": ""}), Finding("configurations", left=8)]) == []


def test_a_rehearsal_says_so() -> None:
    assert table([], {**FACTS, "rehearsal": True})[0] == "A REHEARSAL: these times mean nothing"


def test_the_plan_shares_the_work_and_its_most_telling_phases_fit_the_time() -> None:
    found = {phase.name: phase for phase in plan.phases(list(plan.PHASES), 8, rehearse=False)}
    assert list(found) == list(plan.PHASES)
    shares = [share.command[-1] for share in found["checks"].tasks]
    assert shares == [f"{n}/8" for n in range(8)]
    assert all("--configurations" in share.command for share in found["configurations"].tasks)
    assert found["ceilings"].seconds + found["baselines"].seconds + found["networks"].seconds + 60 < 520
    assert [phase.name for phase in found.values() if phase.quiet] == ["ceilings", "networks", "kernels", "layers"]
    assert [phase.name for phase in plan.phases(["layers", "checks"], 8, rehearse=False)] == ["checks", "layers"]
