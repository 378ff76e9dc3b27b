"""Operations repeated from recordings: what must be the same is the same, and what a plan cannot know is computed anew.

The kernel of these tests adds numbers at addresses, as compiled code does; nothing but its arguments tells it where.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastresunet_kernels import choice, prepared
from fastresunet_kernels.cache import Tuned
from fastresunet_kernels.launch import launch, observed
from fastresunet_kernels.prepared import Prepared
from torch import Tensor
from triton import knobs

from tests.repeating import Driver, use_driver


class Adds:
    """A kernel ``(x_ptr, y_ptr, sum_out, count, BIAS)``: ``sum = x + y + BIAS``, in float32."""

    arg_names = ("x_ptr", "y_ptr", "sum_out", "count", "BIAS")

    def __init__(self) -> None:
        self.pre_run_hooks: list[Any] = []
        self.slow = self.fast = 0

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        """Return the slow path: as Triton's, it returns what was compiled."""

        def run(*arguments: Any, BIAS: float) -> Any:  # noqa: N803 - a constant of the kernel
            self.slow += 1
            x, y, total, count = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
            _add(x, y, total, count, BIAS)
            return SimpleNamespace(run=self._fast, function=17, packed_metadata=(1,))

        return run

    def _fast(self, *values: Any) -> None:
        _, rows, layers, stream, function, metadata, *nothing = values[:9]
        assert (rows, layers, stream, function, metadata, nothing) == (1, 1, 0, 17, (1,), [None] * 3)
        self.fast += 1
        _add(*values[9:])


def _add(x: int, y: int, total: int, count: int, bias: float) -> None:
    values = [(ctypes.c_float * count).from_address(address) for address in (x, y, total)]
    for k in range(count):
        values[2][k] = values[0][k] + values[1][k] + bias


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Adds:
    """Return a kernel; the driver takes addresses."""
    use_driver(monkeypatch, Driver(takes_addresses=True))
    monkeypatch.setattr(prepared, "runs_on_the_cpu", lambda: True)
    return Adds()


def adding(kernel: Adds) -> Prepared:
    """Return an operation that uses all that a plan knows: scratch memory, views, calls, lists, an operand's part."""

    def implementation(pairs: list[Tensor], added: Tensor | None, bias: float) -> tuple[Tensor, list[Tensor], Tensor]:
        first, second = pairs
        scratch = first.new_empty(2, *first.shape)
        total, unused = torch.empty_like(first), first.new_empty(5)
        assert unused.numel() == 5
        count = first.numel()
        launch(kernel, (3,), first, second, scratch[1], count, BIAS=bias)
        launch(kernel, (1,), scratch[1], first if added is None else added, total, count, BIAS=0.0)
        halves = total.view(2, -1)
        return total, [halves[1].to(torch.float32), torch.stack([first, second])], first.new_empty(0)

    return Prepared(implementation)


def expected(pairs: list[Tensor], added: Tensor | None, bias: float) -> list[Tensor]:
    """Return what the operation returns, computed by PyTorch."""
    total = pairs[0] + pairs[1] + bias + (pairs[0] if added is None else added)
    return [total, total.view(2, -1)[1], torch.stack(pairs)]


def check(operation: Prepared, pairs: list[Tensor], added: Tensor | None = None, bias: float = 0.5) -> None:
    """Assert that the operation returns what is expected."""
    total, (half, stack), nothing = operation(pairs, added, bias)
    for value, wanted in zip([total, half, stack], expected(pairs, added, bias), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)
    assert nothing.shape == (0,)
    assert half.data_ptr() == total.data_ptr() + 4 * half.numel()  # the view is one of the new result


def pair(*shape: int) -> list[Tensor]:
    """Return two operands."""
    return list(torch.randn(2, *shape).unbind())


def test_a_second_call_is_repeated_on_other_operands(kernel: Adds) -> None:
    operation = adding(kernel)
    for _ in range(3):
        check(operation, pair(4, 8), torch.randn(4, 8))
    assert (kernel.slow, kernel.fast) == (2, 4)


def test_results_are_new_at_every_call(kernel: Adds) -> None:
    operation = adding(kernel)
    results = [operation(pair(4, 8), None, 0.0)[0] for _ in range(3)]
    assert len({x.data_ptr() for x in results}) == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (((4, 8), None, 0.5), ((4, 8), None, 0.25)),
        (((4, 8), None, 0.5), ((4, 8), (4, 8), 0.5)),
        (((4, 8), None, 0.5), ((2, 8), None, 0.5)),
        (((16, 1), None, 0.5), ((1, 16), None, 0.5)),
        (((4, 8), None, 0.5), ((4, 1), None, 0.5)),
    ],
    ids=["option", "optional-operand", "shape", "transposed", "size-1"],
)
def test_what_differs_is_recorded_anew(kernel: Adds, before: Any, after: Any) -> None:
    operation = adding(kernel)
    for shape, added, bias in (before, after, before, after):
        check(operation, pair(*shape), None if added is None else torch.randn(added), bias)
    assert (kernel.slow, kernel.fast) == (4, 4)


def test_a_misaligned_operand_takes_the_slow_path(kernel: Adds) -> None:
    operation = adding(kernel)
    aligned, misaligned = pair(4, 8), [torch.randn(33)[1:].view(4, 8), torch.randn(4, 8)]
    for operands in (aligned, misaligned, aligned, misaligned):
        check(operation, operands)
    assert (kernel.slow, kernel.fast) == (6, 2)


def test_another_device_is_recorded_anew(kernel: Adds, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = adding(kernel)
    for _ in range(2):
        use_driver(monkeypatch, Driver(takes_addresses=True))
        check(operation, pair(4, 8))
        check(operation, pair(4, 8))
    assert (kernel.slow, kernel.fast) == (4, 4)


def test_arithmetic_of_float32_is_recorded_anew(kernel: Adds, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = adding(kernel)
    for allowed in (False, True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        check(operation, pair(4, 8))
    assert (kernel.slow, kernel.fast) == (4, 2)


def test_other_tunings_are_recorded_anew(kernel: Adds, monkeypatch: pytest.MonkeyPatch) -> None:
    operation, tunings = adding(kernel), [Tuned(), Tuned()]
    for tuned in (*tunings, *tunings):
        monkeypatch.setattr(choice, "tuned", lambda device, tuned=tuned: tuned)
        check(operation, pair(4, 8))
    assert (kernel.slow, kernel.fast) == (4, 4)


def test_launch_hooks_see_every_launch(kernel: Adds) -> None:
    operation, hook = adding(kernel), lambda metadata: None
    check(operation, pair(4, 8))
    knobs.runtime.launch_enter_hook.add(hook)
    try:
        check(operation, pair(4, 8))
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    check(operation, pair(4, 8))
    assert (kernel.slow, kernel.fast) == (4, 2)


def test_observers_see_every_launch(kernel: Adds) -> None:
    operation, seen = adding(kernel), []

    def see(launched: Any) -> bool:
        seen.append(launched.options["BIAS"])
        return True

    check(operation, pair(4, 8))
    with observed(see):
        check(operation, pair(4, 8))
    assert seen == [0.5, 0.0]


def test_forced_configurations_take_the_slow_path(kernel: Adds) -> None:
    operation = adding(kernel)
    check(operation, pair(4, 8))
    with choice.forced({}):
        check(operation, pair(4, 8))
    assert (kernel.slow, kernel.fast) == (4, 0)


def test_a_kernel_with_a_hook_of_its_own_takes_the_slow_path(kernel: Adds) -> None:
    kernel.pre_run_hooks.append(lambda *arguments, **options: None)
    operation = adding(kernel)
    for _ in range(2):
        check(operation, pair(4, 8))
    assert (kernel.slow, kernel.fast) == (4, 0)


def test_the_interpreter_takes_the_slow_path(kernel: Adds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "INTERPRETED", True)
    operation = adding(kernel)
    for _ in range(2):
        check(operation, pair(4, 8))
    assert (kernel.slow, kernel.fast) == (4, 0)


def test_one_tensor_in_two_places_does_not_stand_for_both_in_later_calls(kernel: Adds) -> None:
    operation = adding(kernel)
    same = torch.randn(4, 8)
    for pairs, added in (([same, same], same), (pair(4, 8), torch.randn(4, 8)), ([same, same], torch.randn(4, 8))):
        check(operation, pairs, added)
    assert (kernel.slow, kernel.fast) == (2, 4)


def test_a_plan_is_for_the_devices_of_all_operands(kernel: Adds) -> None:
    def implementation(x: Tensor, y: Tensor) -> Tensor:
        if x.device != y.device:
            raise ValueError("operands are on several devices")
        total = torch.empty_like(x)
        launch(kernel, (1,), x, y, total, x.numel(), BIAS=0.0)
        return total

    operation, x = Prepared(implementation), torch.randn(8)
    operation(x, x)
    with pytest.raises(ValueError, match="several devices"):
        operation(x, x.to("meta"))


@pytest.mark.parametrize("change", ["in-place", "random", "unknown-tensor", "read-on-the-host"])
def test_what_cannot_be_repeated_is_computed_each_time(kernel: Adds, change: str) -> None:
    kept = torch.randn(8)

    def implementation(x: Tensor) -> Tensor:
        total = torch.empty_like(x)
        bias = float(x[0]) if change == "read-on-the-host" else 0.0
        launch(kernel, (1,), x, kept if change == "unknown-tensor" else x, total, x.numel(), BIAS=bias)
        if change == "in-place":
            total.neg_()
        return total + torch.randn(8) if change == "random" else total

    operation = Prepared(implementation)
    for _ in range(2):
        x = torch.randn(8)
        value = operation(x)
        expected = {
            "in-place": -2 * x,
            "random": value,
            "unknown-tensor": x + kept,
            "read-on-the-host": 2 * x + x[0],
        }
        torch.testing.assert_close(value, expected[change])
    assert (kernel.slow, kernel.fast) == (2, 0)


def test_what_concerns_no_tensor_may_be_asked(kernel: Adds) -> None:
    def implementation(x: Tensor) -> Tensor:
        total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, torch.float32))
        launch(kernel, (1,), x, x, total, x.numel(), BIAS=0.0)
        return total

    operation = Prepared(implementation)
    for _ in range(2):
        x = torch.randn(8)
        torch.testing.assert_close(operation(x), 2 * x)
    assert (kernel.slow, kernel.fast) == (1, 1)


def test_an_error_leaves_nothing_behind(kernel: Adds) -> None:
    fails = [True]

    def implementation(x: Tensor) -> Tensor:
        total = torch.empty_like(x)
        if fails[0]:
            raise torch.OutOfMemoryError("no memory")
        launch(kernel, (1,), x, x, total, x.numel(), BIAS=0.0)
        return total

    operation, x = Prepared(implementation), torch.randn(8)
    with pytest.raises(torch.OutOfMemoryError):
        operation(x)
    fails[0] = False
    for _ in range(2):
        torch.testing.assert_close(operation(x), 2 * x)
    assert (kernel.slow, kernel.fast) == (1, 1)


def test_many_shapes_do_not_fill_the_memory(kernel: Adds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_MOST_PLANS", 4)
    operation = adding(kernel)
    for rows in range(2, 22, 2):
        check(operation, pair(rows, 4))
    assert len(operation._plans) <= 4


def test_an_operation_inside_another_is_part_of_its_recording(kernel: Adds) -> None:
    inner = adding(kernel)

    def implementation(x: Tensor) -> Tensor:
        total: Tensor = inner([x, x], None, 0.0)[0]
        return torch.add(total, x)

    outer = Prepared(implementation)
    for _ in range(2):
        x = torch.randn(4, 8)
        torch.testing.assert_close(outer(x), 4 * x)
    assert (kernel.slow, kernel.fast) == (2, 2)
    assert not inner._plans
