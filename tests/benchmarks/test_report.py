"""The page: what stands in it, and that its pictures are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.report import joined, render
from benchmarks.results import Report
from tests.benchmarks.conftest import report, result


def measured() -> Report:
    verdict = {"errors": {"outputs": 1e-3}}
    results = [
        result(
            provider, [seconds * batch] * 3, batch=batch, size=256, mode=mode, verdict=verdict, kept_bytes=batch * 10**6
        )
        for batch in (1, 8)
        for mode in ("training", "evaluation")
        for provider, seconds in (("eager", 0.002), ("FastResUNetPP", 0.001))
    ]
    results.append(result("compile", [], mode="evaluation", obstacle="wrong result: far off"))
    made = report(results)
    made.notes.append("1 other process(es) use the GPU")
    made.skipped.append("network in 512x512")
    return made


@pytest.mark.parametrize("drawn", [True, False])
def test_page(drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if drawn:
        pytest.importorskip("matplotlib")
    monkeypatch.setattr("benchmarks.report._can_draw", lambda: drawn)
    page = render(measured(), tmp_path).read_text()
    assert "| network, training, bf16, 8x256x256 | eager | 16.000 | 16.000 to 16.000 | 1.00 | 1e-03 | 8.0 |" in page
    assert "|  | FastResUNetPP | 8.000 | 8.000 to 8.000 | 2.00 | 1e-03 | 8.0 |" in page
    assert "> Warning: 1 other process(es) use the GPU" in page
    assert (
        "* compile: wrong result: far off (1 cases, first: network network evaluation bf16 8x256x256: compile)" in page
    )
    assert "* no time: network in 512x512" in page
    assert "MODELLED, not measured" in page
    for name in ("throughput", "memory", "roofline", "traffic"):
        assert (f"]({name}.png)" in page) == drawn
        assert (tmp_path / f"{name}.png").exists() == drawn
        assert not drawn or (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_times_of_the_modelled_gpu_stand_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.report._can_draw", lambda: False)
    results = [result("eager", [0.016]), result("FastResUNetPP", [0.008])]
    page = render(report(results, "NVIDIA H100 80GB HBM3"), tmp_path).read_text()
    rows = {line.split(" | ")[0]: line.split(" | ")[-1] for line in page.splitlines() if line.count(" | ") == 3}
    assert rows["| FastResUNetPP"] == "8.00 |"
    assert rows["| plain, eager"] == "16.00 |"


def test_runs_of_one_machine_are_joined() -> None:
    runs = [report([result("eager", [1.0])]), report([result("eager", [1.0], group="layer")])]
    assert [r.key.group for r in joined(runs).results] == ["network", "layer"]
    with pytest.raises(ValueError, match="several machines: a machine, another"):
        joined([report([]), report([], "another")])
