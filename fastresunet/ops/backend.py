"""The choice of what computes a fused operation: plain PyTorch, or Triton kernels."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fastresunet.ops import torch_backend

# "auto" takes the Triton kernels for tensors on a GPU and PyTorch elsewhere, or where Triton is not installed.
# ``fastresunet_kernels.choice`` says when it takes PyTorch on a GPU for operations that tuning found faster there.
Backend = Literal["auto", "triton", "torch"]


def check_backend(backend: str) -> None:
    """Raise unless ``backend`` is known and its software is installed.

    Raises:
        RuntimeError: Triton is not installed.
        ValueError: there is no such backend.
    """
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f'backend must be "auto", "triton" or "torch", got {backend!r}')
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        raise RuntimeError('backend="triton" needs Triton, which is not installed: pip install triton')


def takes_kernels(backend: Backend, device: torch.device) -> bool:
    """Return whether a backend means the Triton kernels for tensors of a device."""
    return backend == "triton" or (backend == "auto" and device.type == "cuda" and _triton_is_installed())


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        name: of the operation.
        operands: its arguments without the backend.
    """

    name: str
    operands: tuple[Any, ...]

    @property
    def device(self) -> torch.device:
        """Where the operands lie."""
        return _device_of(self.operands)

    def compute(self, backend: Backend) -> Any:
        """Return the results of the operation."""
        if (self._chosen() if backend == "auto" else backend) == "triton":
            try:
                return _launchers(self.device)[self.name](*self.operands)
            except NotImplementedError as reason:
                _warn_once(f"not in the Triton kernels, computed by PyTorch instead: {reason}")
        return getattr(torch_backend, self.name)(*self.operands)

    def _chosen(self) -> str:
        device = self.device
        if device.type != "cuda" or not _triton_is_installed():
            return "torch"
        chosen: str = _kernels("choice").choose_backend(self.name, self.operands, device)
        return chosen


def _device_of(operands: Sequence[Any]) -> torch.device:
    first = next(operand for operand in operands if isinstance(operand, Tensor | list))
    device: torch.device = (first if isinstance(first, Tensor) else first[0]).device
    return device


_observers: list[Callable[[Call], None]] = []


@contextmanager
def observed_calls(observer: Callable[[Call], None]) -> Iterator[None]:
    """Show every call of an operation to ``observer`` before it is computed."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def compute(backend: Backend, name: str, *operands: Any) -> Any:
    """Return the results of an operation; see ``Call``."""
    call = Call(name, operands)
    for observer in _observers:
        observer(call)
    return call.compute(backend)


def dispatching(name: str) -> Callable[..., Any]:
    """Return an implementation that takes the backend as its last argument.

    Args:
        name: function of the same name and arguments in ``torch_backend`` and in ``fastresunet_kernels``.
    """

    @functools.wraps(getattr(torch_backend, name))
    def implementation(*arguments: Any) -> Any:
        *operands, backend = arguments
        return compute(backend, name, *operands)

    return implementation


def repeating(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Return an implementation that kernels compute from a recording of an earlier call, where that is possible.

    Args:
        implementation: takes the backend as its last argument, see ``fastresunet_kernels.prepared``.
    """
    prepared: Callable[..., Any] | None = None

    @functools.wraps(implementation)
    def computed(*arguments: Any) -> Any:
        nonlocal prepared
        if _observers or not takes_kernels(arguments[-1], _device_of(arguments)):
            return implementation(*arguments)
        if prepared is None:
            prepared = _kernels("prepared").Prepared(implementation)
        return prepared(*arguments)

    return computed


# Looked up once, and not where torch.compile would trace the search.
_TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None


def _triton_is_installed() -> bool:
    return _TRITON_IS_INSTALLED


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


@functools.cache
def _kernels(module: str) -> Any:
    """Import a module of the kernels at its first use, since Triton need not be installed."""
    return importlib.import_module(f"fastresunet_kernels.{module}")


def _launchers(device: torch.device) -> dict[str, Callable[..., Any]]:
    if device.type == "cpu" and not _kernels("interpreter").runs_on_the_cpu():
        raise RuntimeError(
            'backend="triton" needs tensors on a GPU, got cpu: move model and images with .to("cuda"), use '
            'backend="torch", or set TRITON_INTERPRET=1 before starting Python to interpret the kernels'
        )
    launchers: dict[str, Callable[..., Any]] = _kernels("launchers").LAUNCHERS
    return launchers
