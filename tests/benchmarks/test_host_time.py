"""The time of the host: Triton's own launchers over a CUDA library that does nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from fastresunet_kernels import prepared

from benchmarks import host_time, stub_driver
from fastresunet.ops import excitation

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="launches compiled kernels"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the stub takes the place of a GPU's driver"),
]


@pytest.fixture
def step() -> Iterator[Callable[[], None]]:
    """Return a step of one launch, while the stub driver is active."""
    mean, first, last = torch.rand(2, 16), torch.rand(2, 16), torch.rand(16, 2)

    def one_launch() -> None:
        excitation(mean, first, last, "triton")

    with stub_driver.activated():
        yield one_launch


def test_a_launch_reaches_the_library_recorded_and_repeated(
    step: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for repeated in (True, True, False):
        monkeypatch.setattr(prepared, "_may_be_repeated", lambda repeated=repeated: repeated)
        before = stub_driver.launches()
        step()
        counts.append(stub_driver.launches() - before)
    assert counts == [1, 1, 1]


def test_times_of_a_step_lie_within_it(step: Callable[[], None]) -> None:
    times = host_time.measure(step, lambda: None, 5)
    assert times.launched == 1
    assert 0 < times.launches < times.replays
    assert times.microseconds_a_launch == pytest.approx(1e3 * times.launches)
    assert times.plain < times.step


def test_a_gpu_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_driver._driver.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(stub_driver.StubUnavailableError, match="there is a GPU"), stub_driver.activated():
        pass


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_driver._library.cache_clear()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(stub_driver.StubUnavailableError, match="install gcc"):
        stub_driver._library()
