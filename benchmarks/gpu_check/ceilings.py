"""What this device can do at all: bytes copied, products, and launches of kernels that do nothing.

Run by ``benchmarks.gpu_check``: python -m benchmarks.gpu_check.ceilings
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import triton

from benchmarks import stub_driver
from benchmarks.gpu_check.stage import Stage
from benchmarks.gpu_check.start import started
from benchmarks.gpu_check.worker import first_line
from benchmarks.timing import HostClock

_REPEATS, _LAUNCHES = 12, 400


@triton.jit
def empty_kernel(x_out):  # type: ignore[no-untyped-def]
    """Do nothing."""


def fastest(stage: Stage, function: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some calls, without what the host needs for them."""
    function()
    if stage.rehearsal:
        return min(HostClock().measure([function] * 2))
    seconds = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize(stage.device)
        seconds.append(start.elapsed_time(end) / 1e3)
    return min(seconds)


def copied_gigabytes_per_second(stage: Stage) -> float:
    """Return bytes read and written by a copy on the device, larger than any cache."""
    source = torch.ones(2**22 if stage.rehearsal else 2**30, dtype=torch.int8, device=stage.device)
    target = torch.empty_like(source)
    return 2 * source.numel() / fastest(stage, lambda: target.copy_(source)) / 1e9


def teraflops(stage: Stage, dtype: torch.dtype) -> float:
    """Return operations of a large matrix product."""
    size = 256 if stage.rehearsal else 8192
    a, b = (torch.randn(size, size, device=stage.device).to(dtype) for _ in range(2))
    return 2 * size**3 / fastest(stage, lambda: a @ b) / 1e12


def launch_microseconds(stage: Stage) -> dict[str, float]:
    """Return what the host needs for a launch that does nothing, and what such launches take in a CUDA graph."""
    x = torch.ones(1, device=stage.device)

    def by_triton() -> None:
        empty_kernel[(1,)](x)

    def by_pytorch() -> None:
        x.add_(1)

    with stub_driver.activated() if stage.rehearsal else nullcontext():
        found = {"triton": _host_microseconds(stage, by_triton), "pytorch": _host_microseconds(stage, by_pytorch)}
    if not stage.rehearsal:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(_LAUNCHES):
                by_triton()
        found["triton in a graph"] = fastest(stage, graph.replay) / _LAUNCHES * 1e6
    return found


def _host_microseconds(stage: Stage, launch: Callable[[], object]) -> float:
    launch()
    best = float("inf")
    for _ in range(_REPEATS):
        _synchronize(stage)
        start = time.perf_counter()
        for _ in range(_LAUNCHES):
            launch()
        best = min(best, time.perf_counter() - start)
    _synchronize(stage)
    return best / _LAUNCHES * 1e6


def _synchronize(stage: Stage) -> None:
    if not stage.rehearsal:
        torch.cuda.synchronize(stage.device)


def main() -> None:
    """Measure one after the other; what fails is said and the rest goes on."""
    worker, stage = started(sys.argv)
    measurements: dict[str, Callable[[], float | dict[str, float]]] = {
        "copy GB/s": lambda: copied_gigabytes_per_second(stage),
        "bf16 TFLOP/s": lambda: teraflops(stage, torch.bfloat16),
        "launch us": lambda: launch_microseconds(stage),
        "fp32 TFLOP/s": lambda: teraflops(stage, torch.float32),
    }
    for name, measure in measurements.items():
        if name in worker.finished:
            continue
        try:
            with worker.watched(name, stage.device):
                found = measure()
        except Exception as error:  # a compiler or the driver
            worker.done(name, first_line(error))
            continue
        worker.done(name, found)
        worker.fact(name, found)


if __name__ == "__main__":
    main()
