"""The choice of what computes a fused operation: plain PyTorch, or Triton kernels."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from fastresunet.ops import torch_backend

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


def dispatching(name: str) -> Callable[..., Any]:
    """Return an implementation that takes the backend as its last argument.

    Args:
        name: function of the same name and arguments in ``torch_backend`` and in ``fastresunet_kernels``.
    """
    plain: Callable[..., Any] = getattr(torch_backend, name)

    @functools.wraps(plain)
    def implementation(*arguments: Any) -> Any:
        *operands, backend = arguments
        # "auto" stays with PyTorch until the kernels have been timed on GPUs.
        if backend == "triton":
            try:
                return _kernels(arguments)[name](*operands)
            except NotImplementedError as reason:
                _warn_once(f"not in the Triton kernels, computed by PyTorch instead: {reason}")
        return plain(*operands)

    return implementation


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _kernels(arguments: tuple[Any, ...]) -> dict[str, Callable[..., Any]]:
    first = next(argument for argument in arguments if isinstance(argument, Tensor | list))
    device = (first if isinstance(first, Tensor) else first[0]).device
    interpreter = importlib.import_module("fastresunet_kernels.interpreter")
    if device.type == "cpu" and not interpreter.runs_on_the_cpu():
        raise RuntimeError(
            'backend="triton" needs tensors on a GPU, got cpu: move model and images with .to("cuda"), use '
            'backend="torch", or set TRITON_INTERPRET=1 before starting Python to interpret the kernels'
        )
    launchers: dict[str, Callable[..., Any]] = importlib.import_module("fastresunet_kernels.launchers").LAUNCHERS
    return launchers
