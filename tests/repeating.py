"""Operations repeated from recordings where no compiled kernels are: a driver and compiled kernels for the tests."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastresunet_kernels import prepared, recording, replay
from fastresunet_kernels.launch import Launch
from fastresunet_kernels.replay import Plan


class Driver:
    """Triton's driver of a device; kernels get tensors unless it takes addresses."""

    def __init__(self, takes_addresses: bool = False) -> None:
        self.takes_addresses = takes_addresses

    def get_current_stream(self, device: int | None) -> int:
        """Return the stream."""
        return 0


class Repeated:
    """What was done from recordings.

    Attributes:
        replays: how many operations.
        launches: names of the kernels that they launched.
    """

    def __init__(self) -> None:
        self.replays = 0
        self.launches: list[str] = []


def repeat_interpreted(monkeypatch: pytest.MonkeyPatch) -> Repeated:
    """Let interpreted kernels be repeated from recordings, as compiled ones are; return what was done from them."""
    repeated, see, replays = Repeated(), recording.Recording._see_launch, Plan.replay

    def see_interpreted(self: recording.Recording, interpret: Callable[[], Any], launched: Launch) -> None:
        def run(*values: Any) -> None:
            columns, rows, layers, _, _, _, _, _, _, *parameters = values
            repeated.launches.append(launched.kernel.__name__)
            names = launched.kernel.arg_names[len(launched.arguments) :]
            named = dict(zip(names, parameters[len(launched.arguments) :], strict=True))
            launched.kernel[columns, rows, layers](*parameters[: len(launched.arguments)], **named)

        def compiled() -> SimpleNamespace:
            interpret()
            return SimpleNamespace(run=run, function=0, packed_metadata=())

        see(self, compiled, launched)

    def replay_counted(self: Plan, *arguments: Any) -> Any:
        repeated.replays += 1
        return replays(self, *arguments)

    use_driver(monkeypatch, Driver())
    monkeypatch.setattr(prepared, "INTERPRETED", False)
    monkeypatch.setattr(recording.Recording, "_see_launch", see_interpreted)
    monkeypatch.setattr(Plan, "replay", replay_counted)
    return repeated


def use_driver(monkeypatch: pytest.MonkeyPatch, driver: Any) -> None:
    """Let operations be repeated for a driver."""
    for module in (prepared, replay):
        monkeypatch.setattr(module, "driver", SimpleNamespace(active=driver))


def results_of(compute: Callable[[], Any]) -> list[torch.Tensor]:
    """Return clones of the tensors in a result."""
    return [x.clone() for x in recording._tensors_in(compute())]
