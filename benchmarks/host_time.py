"""Time what the host does for an eager training step of FastResUNetPP with the Triton backend: Python and dispatcher.

Triton launches are left out, and the image is so small that ordinary operations cost little more than their call. Times
are this machine's; those of Triton's own launches and of a GPU's driver come on top.

* forward: a call of a function of ``fastresunet.ops``, argument checks included;
* backward: its node in the autograd graph, from before to after;
* the rest of the step: vectors of BatchNorm and squeeze-and-excitation, gradient sums, autograd between nodes.

Run: python -m benchmarks.host_time
"""

from __future__ import annotations

import argparse
import functools
import inspect
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fastresunet_kernels import interpreter
from fastresunet_kernels.launch import launch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from fastresunet import ops
from fastresunet.model import FastResUNetPP

# For one heavy operation, forward or backward; an operation that fuses several stands for as many as it launches.
GOAL_MICROSECONDS = 80

_WARMUPS = 3

# Function, pass, and Triton launches in it.
Kind = tuple[str, str, int]


class OperationTimes:
    """Microseconds of every fused operation by its kind, forward and backward, while ``timing`` is on."""

    def __init__(self) -> None:
        self.microseconds: dict[Kind, list[float]] = {}
        self._launches = 0

    def skip_launch(self, *arguments: Any, **options: Any) -> None:
        """Take a launch's place."""
        self._launches += 1

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Time the operations called inside."""
        functions = [getattr(ops, name) for name in ops.__all__]
        with ExitStack() as stack:
            for function in filter(inspect.isfunction, functions):
                replace_everywhere(stack, "fastresunet", function, self._timed(function))
            replace_everywhere(stack, "fastresunet_kernels", launch, self.skip_launch)
            yield

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            launches, start = self._launches, time.perf_counter()
            result = function(*arguments, **named)
            elapsed = time.perf_counter() - start
            node = _fused_node(result)
            if node is not None:
                self._add(function.__name__, "forward", launches, elapsed)
                self._time_node(node, function.__name__)
            return result

        return timed

    def _time_node(self, node: Any, name: str) -> None:
        begun: list[tuple[int, float]] = []

        def begin(gradients: Any) -> None:
            begun.append((self._launches, time.perf_counter()))

        def end(inputs: Any, outputs: Any) -> None:
            launches, start = begun.pop()
            self._add(name, "backward", launches, time.perf_counter() - start)

        node.register_prehook(begin)
        node.register_hook(end)

    def _add(self, name: str, direction: str, launches: int, seconds: float) -> None:
        kind = name, direction, self._launches - launches
        self.microseconds.setdefault(kind, []).append(1e6 * seconds)


def replace_everywhere(stack: ExitStack, package: str, original: object, replacement: object) -> None:
    """Replace a function in every loaded module of a package that has it under any name, until ``stack`` closes."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == package:
            for name in [name for name, value in vars(module).items() if value is original]:
                stack.enter_context(mock.patch.object(module, name, replacement))


def _fused_node(result: Any) -> Any:
    """Return the autograd node of the custom operation that computed ``result``, ``None`` without one."""
    for tensor in tree_leaves(result):
        if isinstance(tensor, Tensor) and tensor.grad_fn is not None and "fastresunet" in tensor.grad_fn.name():
            return tensor.grad_fn
    return None


def processor() -> str:
    """Return the name of this machine's processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Parse the options, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16, help="image height and width in pixels (default: 16)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each kind (default: 30)")
    options = parser.parse_args()
    report(options.size, options.steps)


def report(size: int = 16, steps: int = 30) -> None:
    """Print median times of a step and of its operations.

    Args:
        size: image height and width in pixels.
        steps: timed steps of each kind.
    """
    import_module("fastresunet_kernels.launchers")  # now, since only in loaded modules functions are replaced
    torch.set_num_threads(1)
    # Memory that no kernel wrote may hold denormal numbers, which processors compute slowly.
    torch.set_flush_denormal(True)
    print(f"measured on {processor()}, one thread, torch {torch.__version__}, Python {platform.python_version()}")
    for dtype in (torch.float32, torch.bfloat16):
        _measure(dtype, size, steps)


def _measure(dtype: torch.dtype, size: int, steps: int) -> None:
    model = FastResUNetPP(backend="triton")
    image, mask = torch.rand(1, 3, size, size), torch.rand(1, 1, size, size)

    def step() -> tuple[float, float]:
        model.zero_grad()
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = F.binary_cross_entropy_with_logits(model(image).float(), mask)
        middle = time.perf_counter()
        loss.backward()
        return middle - start, time.perf_counter() - middle

    times = OperationTimes()
    with ExitStack() as stack:
        # Not a mock: its call would take as long as a launcher's.
        replace_everywhere(stack, "fastresunet_kernels", interpreter.runs_on_the_cpu, lambda: True)
        with ExitStack() as untimed:
            replace_everywhere(untimed, "fastresunet_kernels", launch, times.skip_launch)
            durations = [step() for _ in range(_WARMUPS + steps)][_WARMUPS:]
        with times.timing():
            for _ in range(steps):
                step()
    forward, backward = (1e3 * statistics.median(column) for column in zip(*durations, strict=True))
    print(f"\n1x3x{size}x{size}, {'bfloat16 autocast' if dtype == torch.bfloat16 else 'float32'}")
    print("operation               pass      Triton launches  calls a step  median us  us a launch", end="")
    print(f"  (goal: {GOAL_MICROSECONDS})")
    operations, launched, fused = 0, 0, 0.0
    for (name, direction, launches), values in sorted(times.microseconds.items()):
        calls, median = len(values) // steps, statistics.median(values)
        operations, launched, fused = operations + calls, launched + calls * launches, fused + calls * median / 1e3
        print(f"{name:24s}{direction:10s}{launches:15d}{calls:14d}{median:11.0f}{median / max(1, launches):13.0f}")
    each = f"{1e3 * fused / launched:.0f} us for each of {launched} launches"
    print(f"{operations} operations, the sum of their medians: {fused:.1f} ms, {each}")
    print(f"whole step, median: forward {forward:.1f} ms, backward {backward:.1f} ms")


if __name__ == "__main__":
    main()
