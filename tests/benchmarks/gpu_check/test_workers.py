"""What the processes of the phases do, on tiny networks and on made-up times."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import checks, kernel_times, layer_times, network_times, stage
from benchmarks.gpu_check.events import parse
from benchmarks.gpu_check.kernel_times import Ceiling, beside_floors, medians, summed
from benchmarks.gpu_check.stage import REHEARSE, Stage, stage_for
from benchmarks.gpu_check.worker import Worker
from benchmarks.providers import PROVIDERS
from benchmarks.recording import Record
from fastresunet.ops import Backend
from fastresunet.ops.backend import Call

REHEARSAL = stage_for([REHEARSE])


def work(
    module: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
    finished: tuple[str, ...] = (),
    seconds: float = 1000,
) -> list[dict[str, Any]]:
    """Return the events of a worker that runs in this process."""
    given = {"seconds": seconds, "finished": finished, "facts": {"machine": {}}}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(given)))
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments, REHEARSE])
    capsys.readouterr()
    module.main()
    events = [parse(line) for line in capsys.readouterr().out.splitlines()]
    return [event for event in events if event is not None]


def results(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results in events by the keys of their units."""
    return {event["key"]: event["result"] for event in events if event["kind"] == "done"}


@pytest.fixture
def by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check PyTorch's backend in the kernels' place."""
    monkeypatch.setattr(Stage, "checked_backend", lambda self: "torch")


@pytest.mark.usefixtures("by_pytorch")
def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = results(work(checks, monkeypatch, capsys, "bf16", "0/1"))
    assert len(right) == REHEARSAL.most_units + 6  # whole steps again, too, and from graphs
    assert set(right.values()) == {""}
    compute = Call.compute

    def corrupted(call: Call, backend: Backend) -> Any:
        found = compute(call, "torch")
        return (found[0] * 1.5, *found[1:]) if backend == "triton" and call.name == "folded_excited_conv" else found

    monkeypatch.setattr(Call, "compute", corrupted)
    monkeypatch.setattr(Stage, "checked_backend", lambda self: "triton")
    found = results(work(checks, monkeypatch, capsys, "bf16", "0/1"))
    ((name, problem),) = ((key, problem) for key, problem in found.items() if problem)
    assert name.startswith("bf16 folded_excited_conv(")
    assert problem.startswith("result 0: error ")


@pytest.mark.usefixtures("by_pytorch")
def test_shares_are_disjoint_and_finished_units_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "check_repeats", lambda worker, stage, precision: None)
    first = results(work(checks, monkeypatch, capsys, "bf16", "0/2"))
    second = results(work(checks, monkeypatch, capsys, "bf16", "1/2"))
    assert not set(first) & set(second)
    assert len(first) + len(second) == REHEARSAL.most_units
    rest = results(work(checks, monkeypatch, capsys, "bf16", "0/2", finished=tuple(first)[:1]))
    assert list(rest) == list(first)[1:]
    events = work(checks, monkeypatch, capsys, "bf16", "0/2", seconds=-1)
    assert events == [{"kind": "left", "units": 2}]


def test_an_error_after_which_the_device_is_dead_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(sys, "stdin", io.StringIO('{"seconds": 1, "finished": [], "facts": {}}'))
    monkeypatch.setattr("os._exit", leave)
    worker = Worker()
    with pytest.raises(ValueError, match="harmless"), worker.watched("a", torch.device("cpu")):
        raise ValueError("harmless")
    monkeypatch.setattr("benchmarks.gpu_check.worker.computes", lambda device: False)
    with pytest.raises(SystemExit, match="70"), worker.watched("b", torch.device("cpu")):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    *_, fault = (parse(line) for line in capsys.readouterr().out.splitlines())
    assert fault == {
        "kind": "fault",
        "key": "b",
        "problem": "RuntimeError: CUDA error: an illegal memory access was encountered",
    }


def test_networks_are_timed_and_what_cannot_be_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skipped = "training 1x16", "evaluation 1x16: channels_last"
    events = work(network_times, monkeypatch, capsys, finished=skipped)
    ((case, found),) = results(events).items()
    by_provider = {result["key"]["provider"]: result for result in found}
    assert case == "evaluation 1x16"
    for name in ("eager", "FastResUNetPP", "folded"):
        assert by_provider[name]["seconds"]
        assert by_provider[name]["host_seconds"]
    assert by_provider["channels_last"]["obstacle"] == "ended the process, see the faults"
    assert by_provider["compile"]["obstacle"] == "not compiled beforehand"
    assert "CUDA graph" not in " ".join(by_provider)


def test_layers_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stage, "_REHEARSAL", replace(REHEARSAL, most_units=1))
    found = results(work(layer_times, monkeypatch, capsys))
    assert len(found) == 2
    assert all(result["seconds"] for pair in found.values() for result in pair)


def test_all_providers_exist() -> None:
    assert {*network_times.TIMED, *network_times.RIVALS} <= set(PROVIDERS)


def record(kernel: str, layer: str, megabytes: int = 3, gflop: int = 0) -> Record:
    """Return a launch as it is counted."""
    return Record(kernel, layer, "c1", False, 1, megabytes * 10**6, 0, gflop * 10**9)


def test_launches_beside_their_floors() -> None:
    steps = [
        [("a_kernel", 10.0), ("b_kernel", 5.0), ("a_kernel", 20.0)],
        [("a_kernel", 12.0), ("b_kernel", 5.0), ("a_kernel", 30.0)],
    ]
    launches = medians(steps)
    assert launches == [("a_kernel", 11.0), ("b_kernel", 5.0), ("a_kernel", 25.0)]
    records = [record("a_kernel", "c1.1"), record("b_kernel", "c1.1", gflop=2), record("a_kernel", "c1.1")]
    first, second = beside_floors(launches, records, Ceiling(3000, 1000))
    assert (first["kernel"], first["launches"], first["us"], first["floor_us"]) == ("a_kernel", 2, 36.0, 2.0)
    assert (second["kernel"], second["us"], second["floor_us"]) == ("b_kernel", 5.0, 2.0)


def test_other_launches_than_counted_are_refused() -> None:
    with pytest.raises(ValueError, match="1 launches were seen that are not the 2 counted ones"):
        beside_floors([("a_kernel", 1.0)], [record("a_kernel", ""), record("b_kernel", "")], Ceiling(1, 1))
    with pytest.raises(ValueError, match="the steps launch different kernels"):
        medians([[("a_kernel", 1.0)], [("b_kernel", 1.0)]])


def test_other_kernels_are_summed_by_name() -> None:
    rows = summed([("cudnn", 1.0), ("copy", 5.0), ("cudnn", 2.0)])
    assert rows == [{"kernel": "copy", "launches": 1, "us": 5.0}, {"kernel": "cudnn", "launches": 2, "us": 3.0}]


def test_ceilings_that_were_not_measured_are_the_data_sheets() -> None:
    assert kernel_times.Ceiling.of({"copy GB/s": 2900.0}) == Ceiling(2900.0, 989.4)
