"""The check of operations on a device, with PyTorch's backend in place of the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.kernel_check import check, difference, in_float64, poisoned, recorded, signature
from benchmarks.networks import NETWORK, ModuleSubject
from benchmarks.precision import PRECISIONS
from fastresunet.ops import Backend
from fastresunet.ops.backend import Call
from tests.benchmarks.conftest import RATES, SMALL

CPU = torch.device("cpu")
BF16 = PRECISIONS["bf16"]


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    """Return the operations of a small network."""
    return recorded(ModuleSubject(NETWORK, SMALL, RATES), BF16, 1, 16, CPU)


def test_all_operations_are_recorded(calls: list[Call]) -> None:
    names = {call.name for call in calls}
    assert names >= {"conv", "conv_batch_affine", "conv_excitation", "conv_norm_sum", "batch_affine"}
    assert names >= {"conv_gradients", "branch_gradient", "folded_conv", "folded_excited_conv", "folded_pyramid"}
    assert names >= {f"{name}_backward" for name in ("conv", "conv_norm_sum", "batch_affine", "excitation")}


def test_right_results_pass(calls: list[Call]) -> None:
    assert list(check(calls, BF16, "torch", configurations=False)) == [""] * len(calls)


def test_wrong_results_are_found(calls: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Call.compute
    convolutions = [call for call in calls if call.name == "conv"]

    def corrupted(call: Call, backend: Backend) -> Any:
        output, *rest = compute(call, "torch")
        if backend == "triton":  # a few pixels of one channel, as an unmasked tile writes them
            output[0, 0, 0, :3] += 1
        return (output, *rest)

    monkeypatch.setattr(Call, "compute", corrupted)
    problems = list(check(convolutions, BF16, "triton", configurations=False))
    assert all(problems)
    assert problems[0].startswith(f"bf16 {signature(convolutions[0])}, default: result 0: ")


def test_an_element_that_nobody_writes_is_found(calls: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Call.compute

    def unwritten(call: Call, backend: Backend) -> Any:
        output, *rest = compute(call, "torch")
        if backend == "triton":
            fresh = torch.empty_like(output)
            fresh[..., 1:] = output[..., 1:]
            output = fresh
        return (output, *rest)

    monkeypatch.setattr(Call, "compute", unwritten)
    (problem,) = check([call for call in calls if call.name == "conv"][:1], BF16, "triton", configurations=False)
    assert "result 0: error nan" in problem


def test_memory_is_poisoned_inside_alone() -> None:
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        with poisoned():
            assert torch.empty(1000).isnan().all()
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)


def test_failures_are_found(calls: list[Call]) -> None:
    # The kernels do not compute on the CPU.
    (problem,) = check(calls[:1], BF16, "triton", configurations=False)
    assert "RuntimeError: " in problem


def test_the_exact_call_is_float64_throughout(calls: list[Call]) -> None:
    for call in calls:
        with torch.no_grad():
            exact = in_float64(call).compute("torch")
        tensors = [x for x in exact if isinstance(x, torch.Tensor) and x.is_floating_point()]
        assert all(x.dtype == torch.float64 for x in tensors), call.name


EXACT = [torch.linspace(1, 2, 10_000, dtype=torch.float64)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x: x, ""),
        (lambda x: x + 1e-3, "error"),
        (lambda x: x.index_fill(0, torch.arange(1), 9), "error"),
        (lambda x: x.index_fill(0, torch.arange(1), 1.001), ""),  # one element may be off by little
        (lambda x: x.index_fill(0, torch.arange(4), 1.001), "4 of 10000 elements"),
        (lambda x: x * float("nan"), "error"),
        (lambda x: x[1:], "shape"),
    ],
    ids=["equal", "all-off", "one-far-off", "one-flipped", "some-off", "nan", "shape"],
)
def test_difference(change: Any, problem: str) -> None:
    twin = [EXACT[0].float()]
    found = difference([change(EXACT[0])], twin, EXACT, PRECISIONS["fp32"])
    assert problem in found
    assert bool(found) == bool(problem)
