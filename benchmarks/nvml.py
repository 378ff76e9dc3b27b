"""What NVIDIA's management library tells about a GPU: clocks, throttling, energy, and who else uses it.

Every question has an answer on every machine: without the library, the driver or the feature it says why there is none.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

# Of ``nvmlClocksThrottleReasons`` those that slow a GPU down; idle and set clocks are no throttling.
_THROTTLES = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


@dataclass(frozen=True)
class State:
    """A GPU at one moment; text in place of a number says why it is not available.

    Attributes:
        sm_megahertz: clock of the multiprocessors.
        memory_megahertz: clock of the memory.
        celsius: temperature.
        watts: power drawn.
        throttled: why the clocks are lowered; empty if they are not.
        other_processes: identifiers of other processes that compute on the GPU; inside a container their number alone
            means something.
    """

    sm_megahertz: int | str
    memory_megahertz: int | str
    celsius: int | str
    watts: float | str
    throttled: list[str] | str
    other_processes: list[int] | str

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """Return what makes measurements on this GPU doubtful, in words."""
        found = []
        if isinstance(self.other_processes, list) and self.other_processes:
            found.append(f"{len(self.other_processes)} other process(es) use the GPU: timings are not its own")
        if isinstance(self.throttled, list) and self.throttled:
            found.append(f"the GPU's clocks are lowered: {', '.join(self.throttled)}")
        return found


class Gpu:
    """One GPU as seen by the management library.

    Args:
        uuid: identifier of the GPU, as the library writes it.
        library: the module ``pynvml``, or one that stands for it.
    """

    def __init__(self, uuid: str, library: Any) -> None:
        self._library = library
        library.nvmlInit()
        self._handle = library.nvmlDeviceGetHandleByUUID(uuid)

    @property
    def name(self) -> str:
        """Name of the GPU."""
        return str(self._ask(lambda: _text(self._library.nvmlDeviceGetName(self._handle))))

    @property
    def driver(self) -> str:
        """Version of the driver."""
        return str(self._ask(lambda: _text(self._library.nvmlSystemGetDriverVersion())))

    def state(self) -> State:
        """Return clocks, temperature, power, throttling and other processes now."""
        library, handle = self._library, self._handle
        return State(
            self._ask(lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)),
            self._ask(lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM)),
            self._ask(lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)),
            self._ask(lambda: library.nvmlDeviceGetPowerUsage(handle) / 1e3),
            self._ask(lambda: throttles(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
            self._ask(self._other_processes),
        )

    def joules(self) -> float | str:
        """Return the energy used since the driver was loaded, or why it is not known."""
        joules: float | str = self._ask(lambda: self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3)
        return joules

    def _other_processes(self) -> list[int]:
        running = [process.pid for process in self._library.nvmlDeviceGetComputeRunningProcesses(self._handle)]
        if os.getpid() in running:
            return [pid for pid in running if pid != os.getpid()]
        # Inside a container the driver may tell the host's numbers; this process, which computes, is one of them.
        return running[1:]

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (self._library.NVMLError, AttributeError) as error:
            return f"not available: {error}"


def throttles(reasons: int) -> list[str]:
    """Return the reasons in a bit mask for which a GPU runs below its clocks."""
    return [name for bit, name in _THROTTLES.items() if reasons & bit]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def find_gpu(uuid: str, load: Callable[[], Any] | None = None) -> Gpu | str:
    """Return a GPU, or why the management library knows none.

    Args:
        uuid: of the GPU in hexadecimal, as PyTorch tells it. The library counts GPUs in another order than PyTorch, and
            counts those that are hidden from this process too.
        load: returns the library; by default imports ``pynvml``.
    """
    try:
        library = importlib.import_module("pynvml") if load is None else load()
    except ImportError:
        return "not available: the package nvidia-ml-py is not installed"
    try:
        return Gpu(f"GPU-{uuid}", library)
    except library.NVMLError as error:
        return f"not available: {error}"
