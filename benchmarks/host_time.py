"""Time what the host does for a step of FastResUNetPP with the Triton backend, launches included, without a GPU.

Triton's own driver and launchers run over a CUDA library that does nothing, see ``benchmarks.stub_driver``. The image
is so small that PyTorch's own operations, which compute on the processor here, cost little more than their call; what
the host does depends on neither the batch nor the size of the image. Times are of one thread of this processor.

* launches: calls of Triton's launcher, for each kernel;
* addresses: allocations and the rest of repeating operations from their recordings;
* Python: everything else, PyTorch's dispatcher and autograd among it;
* anew: the whole step if every launch is worked out anew, by the launchers and by Triton;
* plain: a step of the plain network in PyTorch's eager mode, of few channels, so that it is mostly dispatch too.

Run: python -m benchmarks.host_time
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks import stub_driver
from benchmarks.processor import processor
from fastresunet.inference import fold
from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP

# Milliseconds of a whole step in bfloat16, and microseconds of a launch in it.
GOALS = {"training": 10.0, "evaluation": 5.0, "folded": 1.5}
LAUNCH_GOAL = 5.0
_WARMUPS = 3
# Channels of the plain network, whose products are computed here.
_FEW = (8, 8, 8, 8, 8)


@dataclass(frozen=True)
class HostTimes:
    """Medians over steps, in milliseconds of the processor.

    Attributes:
        step: a whole step.
        launches: in it, calls of Triton's launcher.
        replays: in it, repeating operations, launches included.
        launched: kernels.
        anew: a whole step without recordings.
        plain: a step of the plain network.
    """

    step: float
    launches: float
    replays: float
    launched: int
    anew: float
    plain: float

    @property
    def microseconds_a_launch(self) -> float:
        """Of Triton's launcher."""
        return 1e3 * self.launches / self.launched


class _Stopwatch:
    """Adds up the time in functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - start
            return result

        return timed


def steps(dtype: torch.dtype, size: int) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """Return what is timed, by name: a step of FastResUNetPP, and that of the plain network.

    Args:
        dtype: bfloat16 by autocast, or float32.
        size: image height and width in pixels.
    """
    image, direction = torch.rand(1, 3, size, size), torch.randn(1, 1, size, size)

    def training(network: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.SGD(network.parameters())

        def step() -> None:
            optimizer.zero_grad()
            logits = _logits(network, image, dtype)
            logits.backward(direction.to(logits.dtype))

        return step

    def inference(network: nn.Module) -> Callable[[], None]:
        network.eval()

        @torch.no_grad()
        def step() -> None:
            _logits(network, image, dtype)

        return step

    plain = inference(ResUNetPP(filters=_FEW))
    return {
        "training": (training(FastResUNetPP(backend="triton")), training(ResUNetPP(filters=_FEW))),
        "evaluation": (inference(FastResUNetPP(backend="triton")), plain),
        "folded": (inference(fold(FastResUNetPP(), "triton")), plain),
    }


def _logits(network: nn.Module, image: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits: Tensor = network(image)
    return logits


def measure(fast: Callable[[], None], plain: Callable[[], None], count: int) -> HostTimes:
    """Time a step in all ways, one after the other in each round; the stub driver must be active.

    Args:
        fast: step of FastResUNetPP.
        plain: step of the plain network.
        count: rounds.
    """
    from fastresunet_kernels import replay  # noqa: PLC0415 - needs Triton

    for _ in range(_WARMUPS):
        fast()
        plain()
    launched = stub_driver.launches()
    fast()
    launched = stub_driver.launches() - launched
    rows: list[tuple[float, ...]] = []
    for _ in range(count):
        launcher, replays = _Stopwatch(), _Stopwatch()
        step = _thread_seconds(fast)
        with stub_driver.launchers_wrapped(launcher.around):
            fast()
        with mock.patch.object(replay.Plan, "replay", replays.around(replay.Plan.replay)):
            fast()
        with _launches_worked_out_anew():
            anew = _thread_seconds(fast)
        rows.append((step, launcher.seconds, replays.seconds, anew, _thread_seconds(plain)))
    step, launches, repeated, anew, plainly = (1e3 * statistics.median(column) for column in zip(*rows, strict=True))
    return HostTimes(step, launches, repeated, launched, anew, plainly)


def _thread_seconds(function: Callable[[], None]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


@contextmanager
def _launches_worked_out_anew() -> Iterator[None]:
    from fastresunet_kernels import prepared  # noqa: PLC0415 - needs Triton

    with mock.patch.object(prepared, "_may_be_repeated", return_value=False):
        yield


def report(size: int = 16, count: int = 30) -> None:
    """Print the times of training, evaluation and folded inference.

    Args:
        size: image height and width in pixels.
        count: steps of each kind.

    Raises:
        StubUnavailableError: the machine has a GPU, or no C compiler.
    """
    torch.set_num_threads(1)
    # Memory that no kernel wrote may hold denormal numbers, which processors compute slowly.
    torch.set_flush_denormal(True)
    print(f"measured on {processor()}, one thread, torch {torch.__version__}, Python {platform.python_version()}")
    with stub_driver.activated():
        for dtype in (torch.bfloat16, torch.float32):
            _print_times(dtype, size, count)


def _print_times(dtype: torch.dtype, size: int, count: int) -> None:
    print(f"\n{'bfloat16 autocast' if dtype == torch.bfloat16 else 'float32'}, medians of {count} steps in ms (goal)")
    print(f"{'':12s}{'step':>12s}{'launches':>22s}{'addresses':>11s}{'Python':>9s}{'anew':>9s}{'plain':>9s}")
    for name, functions in steps(dtype, size).items():
        times = measure(*functions, count)
        launches = f"{times.launches:.2f} ({times.launched} x {times.microseconds_a_launch:.1f} us)"
        step, rest = f"{times.step:.2f} ({GOALS[name]:g})", times.step - times.replays
        filled = times.replays - times.launches
        print(f"{name:12s}{step:>12s}{launches:>22s}{filled:11.2f}{rest:9.2f}{times.anew:9.2f}{times.plain:9.2f}")


def main() -> None:
    """Parse the options, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16, help="image height and width in pixels (default: 16)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each kind (default: 30)")
    options = parser.parse_args()
    report(options.size, options.steps)


if __name__ == "__main__":
    main()
