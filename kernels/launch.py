"""The one place where kernels are launched, so that tools can watch launches, or keep them from running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: the ``@triton.jit`` function.
        grid: programs in each direction.
        arguments: positional arguments; a tensor is written by the kernel if its parameter's name ends in ``_out``.
        options: compile-time constants, warps and stages.
        multiply_adds: multiply-add operations of the products in it, those outside the image included.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    multiply_adds: int


Observer = Callable[[Launch], bool]
_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Show every launch to ``observer`` first; the kernel runs if it returns ``True``."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, multiply_adds: int = 0, **options: Any) -> None:
    """Run a kernel on the device of its first tensor.

    Args:
        kernel: the ``@triton.jit`` function.
        grid: programs in each direction.
        arguments: the kernel's positional arguments, among them a tensor.
        multiply_adds: see ``Launch``.
        options: compile-time constants, ``num_warps`` and ``num_stages``.
    """
    if _observers:
        seen = Launch(kernel, grid, arguments, options, multiply_adds)
        answers = [observer(seen) for observer in _observers]
        if not all(answers):
            return
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    if first.is_cuda:
        with torch.cuda.device_of(first):
            kernel[grid](*arguments, **options)
    else:
        kernel[grid](*arguments, **options)
