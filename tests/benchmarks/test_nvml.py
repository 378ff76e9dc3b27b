"""The management library: answers, and reasons where there are none."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.energy import joules_per_image
from benchmarks.nvml import Gpu, State, find_gpu, throttles


class FakeNvml:
    """A library with one GPU, whose energy counter advances by 100 J whenever it is read."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = range(3)

    class NVMLError(Exception):
        """An error of the library."""

    def __init__(self) -> None:
        self.energy = 0.0
        self.opened = ""
        self.processes = [os.getpid(), 1]

    def nvmlInit(self) -> None:  # noqa: N802
        """Do nothing."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.opened = uuid
        return "handle"

    def nvmlDeviceGetName(self, handle: str) -> bytes:  # noqa: N802
        return b"A GPU"

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "1.2"

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        return 1000 + kind

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:  # noqa: N802
        return 50

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return 0x04 | 0x01

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.processes]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> float:  # noqa: N802
        self.energy += 100_000
        return self.energy


def test_state_of_a_gpu() -> None:
    gpu = Gpu("GPU-0", FakeNvml())
    assert (gpu.name, gpu.driver) == ("A GPU", "1.2")
    state = gpu.state()
    assert state == State(1000, 1001, 50, "not available: Not Supported", ["software power cap"], [1])
    assert state.warnings() == [
        "1 other process(es) use the GPU: timings are not its own",
        "the GPU's clocks are lowered: software power cap",
    ]


def test_a_quiet_gpu_has_no_warnings() -> None:
    assert State(1, 1, 1, 1.0, [], []).warnings() == []
    assert State("no", "no", "no", "no", "no", "no").warnings() == []
    assert throttles(0x01 | 0x02) == []  # idle, clocks set by the user


@pytest.mark.parametrize(("processes", "others"), [([], 0), ([4711], 0), ([4711, 4712], 1)])
def test_numbers_of_another_namespace_include_this_process(processes: list[int], others: int) -> None:
    library = FakeNvml()
    library.processes = processes
    found = Gpu("GPU-0", library).state().other_processes
    assert isinstance(found, list)
    assert len(found) == others


def test_the_gpu_is_asked_by_its_identifier() -> None:
    library = FakeNvml()
    assert isinstance(find_gpu("ffc79498-8ff3", lambda: library), Gpu)
    assert library.opened == "GPU-ffc79498-8ff3"


def test_reasons_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed() -> Any:
        raise ImportError

    assert find_gpu("0", not_installed) == "not available: the package nvidia-ml-py is not installed"
    library = FakeNvml()

    def no_driver() -> None:
        raise FakeNvml.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(library, "nvmlInit", no_driver)
    assert find_gpu("0", lambda: library) == "not available: Driver Not Loaded"


def test_energy_of_an_image() -> None:
    moments = iter(range(100))
    steps: list[int] = []
    joules = joules_per_image(
        lambda: steps.append(1), 5, Gpu("GPU-0", FakeNvml()), lambda: None, 3, lambda: next(moments)
    )
    # From second 0 on, two rounds of four steps begin before second 3.
    assert len(steps) == 8
    assert joules == 100 / (8 * 5)


def test_energy_without_a_gpu_says_why() -> None:
    assert joules_per_image(lambda: None, 1, "not available: none", lambda: None) == "not available: none"
