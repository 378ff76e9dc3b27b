"""The runner: what is timed, what is refused, and what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import run as runner_module
from benchmarks.cases import Case, select
from benchmarks.layers import layers
from benchmarks.networks import NETWORK, ModuleSubject
from benchmarks.providers import PROVIDERS, build
from benchmarks.results import Report
from benchmarks.run import Runner, competitors, lines, measure
from benchmarks.timing import Effort, HostClock
from benchmarks.work import MODES
from tests.benchmarks.conftest import RATES, SMALL, report

SUBJECT = ModuleSubject(NETWORK, SMALL, RATES)
CASE = Case("network", SUBJECT, "training", "fp32", 2, 16, ("eager", "channels_last", "FastResUNetPP"))


def runner(seconds_left: float = 1e9) -> Runner:
    effort = Effort(warmups=0, least=2, most=2)
    return Runner(torch.device("cpu"), HostClock(), effort, "not available: none", seconds_left=lambda: seconds_left)


@pytest.mark.parametrize("mode", ["forward", "training", "evaluation"])
def test_right_results_are_timed(mode: Any) -> None:
    results = runner().run(replace(CASE, mode=mode))
    assert [result.key.provider for result in results] == list(CASE.providers)
    assert all(len(result.seconds) == 2 and not result.obstacle for result in results)
    kept = {result.key.provider: result.kept_bytes for result in results}
    if mode == "evaluation":
        assert set(kept.values()) == {None}
    else:
        assert kept["FastResUNetPP"] < kept["eager"]  # type: ignore[operator]


def test_a_layer_is_timed() -> None:
    layer = layers(True, 2, 16, SMALL, RATES)[0]
    results = runner().run(Case("layer", layer, "training", "bf16", 2, 16, ("eager", "FastResUNetPP")))
    assert all(result.seconds for result in results)


def test_no_figure_for_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupted(provider: Any, *arguments: Any) -> Any:
        step = build(provider, *arguments)
        if not provider.fast:
            return step
        function = step.work.function
        return replace(step, work=replace(step.work, function=lambda x: 1.01 * function(x)))  # type: ignore[type-var]

    monkeypatch.setattr(runner_module, "build", corrupted)
    eager, _, fast = runner().run(CASE)
    assert eager.seconds
    assert not fast.seconds
    assert fast.obstacle.startswith("wrong result: outputs 1.0e-02")
    assert fast.verdict is not None
    assert not fast.verdict["passed"]
    assert "not measured: wrong result" in "\n".join(lines([eager, fast]))


def test_what_fails_to_build_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(provider: Any, *arguments: Any) -> Any:
        if provider.fast:
            raise RuntimeError("no such instruction\nmore")
        return build(provider, *arguments)

    monkeypatch.setattr(runner_module, "build", failing)
    *_, fast = runner().run(CASE)
    assert fast.obstacle == "RuntimeError: no such instruction"


@pytest.mark.parametrize(("provider", "seconds_left"), [("compile", 10), ("compile max-autotune", 200)])
def test_nothing_is_compiled_at_the_end_of_the_time(provider: str, seconds_left: float) -> None:
    results = runner(seconds_left).run(replace(CASE, mode="evaluation", providers=("eager", provider)))
    assert [bool(result.seconds) for result in results] == [True, False]
    assert results[1].obstacle == "no time left to compile"


def test_files_hold_everything(tmp_path: Path) -> None:
    shown: list[str] = []
    file, made = tmp_path / "results.json", report([])
    measure([CASE], runner(), made, file, shown.append)
    read = Report.read(file)
    assert read.results == made.results
    assert read.skipped == []
    assert read.notes == made.notes
    assert read.states["after"] == "not available: none"
    assert shown[0] == "network network training fp32 2x16x16"


def test_cases_without_time_are_listed(tmp_path: Path) -> None:
    made = report([])
    measure([CASE], runner(seconds_left=0), made, tmp_path / "results.json", lambda line: None)
    assert Report.read(tmp_path / "results.json").skipped == [str(CASE)]


@pytest.mark.parametrize(
    ("load", "cores", "threads", "warned"),
    [(0.2, 8, 8, False), (3.0, 8, 4, False), (2.0, 2, 1, True), (1.0, 8, 8, True)],
)
def test_a_busy_machine_is_noted(load: float, cores: int, threads: int, warned: bool) -> None:
    assert bool(competitors(load, cores, threads)) == warned


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="holds no benchmark results"):
        Report.read(file)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_selected_cases_have_a_baseline_first_and_distinct_titles(device: str) -> None:
    cases = select(device, full=False)
    assert all(case.providers[0] == "eager" for case in cases)
    assert len({(str(case), case.providers) for case in cases}) == len(cases)
    assert {case.group for case in cases} == {"network", "block", "layer"}
    assert {case.mode for case in cases} == set(MODES)
    graphs = [name for case in cases for name in case.providers if PROVIDERS[name].graph]
    assert bool(graphs) == (device == "cuda")


def test_everything_covers_sizes_batches_and_precisions() -> None:
    networks = [case for case in select("cuda", full=True) if case.group == "network"]
    assert {case.size for case in networks} == {256, 352, 512}
    assert {case.batch for case in networks} == {1, 2, 4, 8, 16, 32, 64}
    assert {case.precision for case in networks} == {"fp32", "tf32", "bf16", "fp16"}
    assert {name for case in networks for name in case.providers} >= {"compile max-autotune + CUDA graphs", "TensorRT"}


def test_folded_networks_are_timed_in_evaluation_only() -> None:
    (_, folded) = runner().run(replace(CASE, mode="evaluation", providers=("eager", "folded")))
    assert folded.seconds, folded.obstacle
    device = torch.device("cuda")
    assert [PROVIDERS["folded + CUDA graph"].applies(SUBJECT, mode, device) for mode in MODES] == [False, False, True]
