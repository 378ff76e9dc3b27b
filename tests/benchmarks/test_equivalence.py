"""What passes as right, and what does not."""

from __future__ import annotations

import pytest
import torch

from benchmarks.equivalence import Values, errors, judge, values
from benchmarks.layers import layers
from benchmarks.networks import BLOCKS, NETWORK, ModuleSubject
from benchmarks.precision import PRECISIONS
from benchmarks.providers import exact_step, plain_steps
from benchmarks.work import MODES, Mode, step_of
from tests.benchmarks.conftest import RATES, SMALL

CPU = torch.device("cpu")
FP32 = PRECISIONS["fp32"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [NETWORK, *BLOCKS])
def test_modules_pass(name: str, mode: Mode) -> None:
    subject = ModuleSubject(name, SMALL, RATES)
    step = step_of(subject.work(True, mode, subject.inputs(2, 16), CPU), mode, FP32)
    plain = [values(s) for s in plain_steps(subject, mode, FP32, 2, 16, CPU)]
    verdict = judge(values(step), plain, values(exact_step(subject, mode, FP32, 2, 16, CPU)), FP32, 256)
    assert verdict.passed, verdict
    assert verdict.errors.outputs < 1e-3
    assert (verdict.errors.gradient_total > 0) == (mode == "training")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_operations_pass(mode: Mode, precision: str) -> None:
    chosen = PRECISIONS[precision]
    for layer in layers(mode == "training", 2, 16, SMALL, RATES):
        step = step_of(layer.work(True, mode, chosen.features, CPU), mode, chosen)
        plain = [values(s) for s in plain_steps(layer, mode, chosen, 2, 16, CPU)]
        exact = values(exact_step(layer, mode, chosen, 2, 16, CPU))
        verdict = judge(values(step), plain, exact, chosen, 256)
        assert verdict.passed, f"{layer.name}: {verdict}"


def test_all_operations_of_the_network_are_covered() -> None:
    found = layers(True, 2, 16, SMALL, RATES)
    assert {layer.operation for layer in found} == {"conv", "conv_norm_sum", "batch_affine", "excitation"}
    # Three convolutions in each of three gates, two in each of seven residual blocks, and the head's two and output's.
    assert sum(layer.count for layer in found if layer.operation == "conv") == 9 + 14 + 3
    assert sum(layer.count for layer in found if layer.operation == "conv_norm_sum") == 7 + 2


EXACT = Values([torch.ones(100, dtype=torch.float64)], [torch.ones(10, dtype=torch.float64)] * 3)


def changed(change: float, gradients: float = 0.0) -> Values:
    return Values([EXACT.outputs[0] + change], [gradient + gradients for gradient in EXACT.gradients])


def test_errors_are_relative_to_the_exact_values() -> None:
    found = errors(changed(0.01, 0.02), EXACT)
    assert found.outputs == pytest.approx(0.01)
    assert found.gradient_median == pytest.approx(0.02)
    assert found.gradient_total == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (changed(3e-4), True),
        (changed(5e-4), False),
        (changed(0, 3e-4), True),
        (changed(0, 5e-4), False),
        (changed(float("nan")), False),
        (Values([torch.ones(99)], EXACT.gradients), False),
        (Values(EXACT.outputs, [torch.zeros(10)] * 3), False),
    ],
    ids=["output-close", "output-far", "gradient-close", "gradient-far", "nan", "shape", "no-gradient"],
)
def test_four_times_the_plain_error_is_allowed(found: Values, passed: bool) -> None:
    assert judge(found, [changed(1e-4, 1e-4)], EXACT, FP32, 100).passed == passed


def test_the_worst_plain_run_counts() -> None:
    plain = [changed(1e-6, 1e-6), changed(1e-6, 1e-3)]
    assert judge(changed(0, 3e-3), plain, EXACT, FP32, 100).passed
    assert not judge(changed(0, 3e-3), plain[:1], EXACT, FP32, 100).passed


def test_gradients_that_are_rounding_alone_do_not_count() -> None:
    exact = Values(EXACT.outputs, [*EXACT.gradients, torch.full((10,), 1e-12, dtype=torch.float64)])
    found = Values(EXACT.outputs, [*EXACT.gradients, torch.full((10,), 1e-8, dtype=torch.float64)])
    assert errors(found, exact).gradient_median == 0


def test_a_large_error_of_plain_pytorch_does_not_allow_a_missing_gradient() -> None:
    missing = Values(EXACT.outputs, [torch.zeros(10, dtype=torch.float64)] * 3)
    assert not judge(missing, [changed(0, 0.3)], EXACT, PRECISIONS["bf16"], 100).passed


def test_plain_pytorch_that_is_not_finite_allows_nothing() -> None:
    assert not judge(changed(0), [changed(float("nan"))], EXACT, FP32, 100).passed
