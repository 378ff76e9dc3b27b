"""The stand-in for CUDA graphs does what CUDA graphs do."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .recorder import RecordingCapturer


def test_a_capture_computes_nothing_and_a_replay_computes_everything() -> None:
    x, total, calls = torch.ones(3), torch.zeros(3), []

    def compute() -> Tensor:
        calls.append(1)
        total.add_(x)
        return (2 * total).relu()

    captured = RecordingCapturer().capture(compute)
    assert total.tolist() == [0, 0, 0]
    assert captured.result.isnan().all()
    for factor in (1.0, 2.0):
        x.fill_(factor)
        captured.replay()
    assert total.tolist() == [3, 3, 3]
    assert captured.result.tolist() == [6, 6, 6]
    assert len(calls) == 1


def test_numbers_are_constants_and_views_are_addresses() -> None:
    x, number = torch.arange(4.0), [2.0]
    captured = RecordingCapturer().capture(lambda: x.view(2, 2)[1] * number[0] + torch.ones(2))
    number[0] = 5.0
    x.add_(1)
    captured.replay()
    assert captured.result.tolist() == [7, 9]


def test_gradients_are_recorded() -> None:
    x = torch.ones(3, requires_grad=True)
    captured = RecordingCapturer().capture(lambda: torch.autograd.grad((x**3).sum(), x)[0])
    x.detach().fill_(2.0)
    captured.replay()
    assert captured.result.tolist() == [12, 12, 12]


def test_other_graphs_spoil_what_nobody_holds() -> None:
    capturer, x, held, address = RecordingCapturer(), torch.ones(2), [], []

    def compute() -> Tensor:
        held.append(x + 1)
        dropped = x + 2
        address.append(dropped.data_ptr())
        return dropped + 1

    first, second = capturer.capture(compute), capturer.capture(x.neg)
    dropped = (ctypes.c_float * 2).from_address(address[0])
    first.replay()
    assert [*held[0].tolist(), *dropped] == [2, 2, 3, 3]
    second.replay()
    assert held[0].tolist() == [2, 2]
    assert all(map(math.isnan, dropped))
    assert first.result.tolist() == [4, 4]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).all()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.tensor(1.0),
        lambda x: torch.equal(x, x),
    ],
    ids=["item", "float", "if", "nonzero", "mask", "new_tensor", "tensor", "equal"],
)
def test_host_reads_end_a_capture(read: Callable[[Tensor], object]) -> None:
    x = torch.ones(3)

    def compute() -> Tensor:
        x.add_(1)
        read(x)
        return x

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        RecordingCapturer().capture(compute)
    assert x.tolist() == [1, 1, 1]
