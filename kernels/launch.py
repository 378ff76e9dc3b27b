"""The one place where kernels are launched, so that tools can watch launches, or keep them from running."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
# Makes the launch by calling the function it is given, which returns what Triton compiled; ``None`` if it interprets.
Listener = Callable[[Callable[[], Any], Launch], None]
_observers: list[Observer] = []


class _Listening(threading.local):
    """Who listens to the launches of this thread."""

    listener: Listener | None = None


_listening = _Listening()


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Show every launch to ``observer`` first; the kernel runs if it returns ``True``."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def is_watched() -> bool:
    """Return whether there is an observer."""
    return bool(_observers)


def is_listened_to() -> bool:
    """Return whether somebody listens to the launches of this thread."""
    return _listening.listener is not None


@contextmanager
def listened_to(listener: Listener) -> Iterator[None]:
    """Let ``listener`` make every launch of this thread; it takes the place of an earlier one."""
    before, _listening.listener = _listening.listener, listener
    try:
        yield
    finally:
        _listening.listener = before


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, multiply_adds: int = 0, **options: Any) -> None:
    """Run a kernel on the device of its first tensor.

    Args:
        kernel: the ``@triton.jit`` function.
        grid: programs in each direction.
        arguments: the kernel's positional arguments, among them a tensor.
        multiply_adds: see ``Launch``.
        options: compile-time constants, ``num_warps`` and ``num_stages``.
    """
    launched = Launch(kernel, grid, arguments, options, multiply_adds)
    if _observers:
        answers = [observer(launched) for observer in _observers]
        if not all(answers):
            return
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    with on_device_of(first):
        if _listening.listener is None:
            kernel[grid](*arguments, **options)
        else:
            _listening.listener(lambda: kernel[grid](*arguments, **options), launched)


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the GPU of a tensor the current one; nothing to do elsewhere, or if it is."""
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device_of(tensor)
    return _NOTHING_TO_DO


_NOTHING_TO_DO = nullcontext()
