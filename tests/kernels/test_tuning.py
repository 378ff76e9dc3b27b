"""Tuning with interpreted kernels and a clock that prefers what the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from fastresunet_kernels import cache, choice
from fastresunet_kernels.config import Config, Layer, candidates, rule
from fastresunet_kernels.keys import layer_key

from fastresunet import tuning
from fastresunet.blocks import ResidualBlock
from fastresunet.ops import Backend, Source, conv
from fastresunet.ops.backend import Call
from fastresunet.training.tune import run_step, tables

CPU = torch.device("cpu")
SMALL = Config(16, 16, 16)
WRONG_SIZE = Config(24, 16, 16)
WRONG_RESULT = Config(32, 16, 16)


def untracked(calls: Iterable[tuning.CountedCall], description: str, total: int) -> Iterable[tuning.CountedCall]:
    """Show nothing."""
    return calls


class Clock:
    """A timer that knows which configurations and backends ran.

    Args:
        milliseconds: of a configuration; others take 10.
        pytorch: milliseconds of what is computed without a configuration.
    """

    def __init__(self, milliseconds: dict[Config, float], pytorch: float = 20) -> None:
        self.milliseconds, self.pytorch = milliseconds, pytorch

    def __call__(self, function: Callable[[], object]) -> float:
        """Return what the configurations used by a function take together."""
        used: list[Config] = []
        choose = choice.choose

        def noting(layer: Layer, device: torch.device) -> Config:
            used.append(choose(layer, device))
            return used[-1]

        with pytest.MonkeyPatch.context() as patch:
            for module in ("convolution", "input_gradients", "weight_gradients", "normalized_sum"):
                patch.setattr(f"fastresunet_kernels.{module}.choose", noting)
            function()
        return sum(self.milliseconds.get(config, 10) for config in used) if used else self.pytorch


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enable tuning, with files in a folder of the test's own."""
    monkeypatch.setenv("FASTRESUNET_AUTOTUNE", "1")
    monkeypatch.setenv("FASTRESUNET_CACHE", str(tmp_path))


def recorded_convolution(count: int = 1) -> dict[str, tuning.CountedCall]:
    """Return the calls of a step of one convolution, run ``count`` times."""
    image, weight = torch.randn(2, 16, 6, 6), torch.randn(16, 16, 3, 3)

    def step() -> None:
        for _ in range(count):
            conv([Source(image)], weight, backend="torch")

    return tuning.record(step)


def test_every_candidate_of_a_layer_is_timed_and_the_fastest_kept() -> None:
    calls = recorded_convolution(count=3)
    (counted,) = calls.values()
    assert counted.count == 3
    with choice.recorded() as layers:
        counted.call.compute("triton")
    fast = candidates(layers[0])[-1]
    clock = Clock({fast: 4})
    result = tuning.tune(calls, clock, untracked)
    times = result.layers[layer_key(layers[0])]
    assert not times.failed
    assert times.milliseconds == {config: 12 if config == fast else 30 for config in candidates(layers[0])}
    assert times.fastest == fast
    (operation,) = result.operations.values()
    assert (operation.torch, operation.default, operation.tuned, operation.backend) == (20, 10, 4, "triton")


def test_the_default_stays_where_nothing_is_clearly_faster() -> None:
    calls = recorded_convolution()
    result = tuning.tune(calls, Clock({SMALL: 9.9}, pytorch=5), untracked)
    (times,), (operation,) = result.layers.values(), result.operations.values()
    assert times.fastest == times.default
    assert operation.backend == "torch"


def test_candidates_that_fail_or_are_wrong_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "candidates", lambda layer: [rule(layer), WRONG_SIZE, WRONG_RESULT, SMALL])
    compute = Call.compute

    def corrupted(call: Call, backend: Backend) -> object:
        with choice.recorded() as layers:
            output, *rest = compute(call, backend)
        wrong = backend == "triton" and choice.choose(layers[0], CPU) == WRONG_RESULT
        return (output + 0.1 if wrong else output, *rest)

    monkeypatch.setattr(Call, "compute", corrupted)
    result = tuning.tune(recorded_convolution(), Clock({WRONG_SIZE: 1, WRONG_RESULT: 1, SMALL: 5}), untracked)
    (times,) = result.layers.values()
    assert times.failed == {WRONG_SIZE, WRONG_RESULT}
    assert times.fastest == SMALL


def test_a_default_that_fails_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tuning, choice):
        monkeypatch.setattr(module, "_default" if module is choice else "rule", lambda layer: WRONG_SIZE)
    monkeypatch.setattr(tuning, "candidates", lambda layer: [WRONG_SIZE, SMALL])
    result = tuning.tune(recorded_convolution(), Clock({}), untracked)
    (times,), (operation,) = result.layers.values(), result.operations.values()
    assert times.fastest == SMALL
    assert (operation.default, operation.tuned) == (float("inf"), 10)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_tuning_a_block_changes_what_it_computes_with(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "candidates", lambda layer: [rule(layer), SMALL])
    block = ResidualBlock(8, 16, stride=2)
    calls = tuning.record(lambda: run_step(block, torch.randn(1, 8, 12, 8), "32", training))
    names = {counted.call.name for counted in calls.values()}
    assert {"conv", "conv_norm_sum", "batch_affine"} <= names
    assert ({"conv_gradients", "branch_gradient"} <= names) == training
    result = tuning.tune(calls, Clock({SMALL: 1}), untracked)
    assert not any(times.failed for times in result.layers.values())
    kinds = {times.layer.kind for times in result.layers.values()}
    assert kinds == ({"forward", "input_gradient", "weight_gradient"} if training else {"forward"})
    assert all(times.fastest == SMALL for times in result.layers.values())
    assert [table.row_count for table in tables(result)] == [len(result.layers), len(names) + 1]

    result.save(CPU)
    torch.use_deterministic_algorithms(False)
    used = cache.read(cache.cache_file(CPU))
    assert set(used.configs) == set(result.layers)
    assert set(used.backends) == set(calls)
    assert all(choice.choose(times.layer, CPU) == SMALL for times in result.layers.values())
