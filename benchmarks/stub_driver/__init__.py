"""Triton's own NVIDIA driver and launchers over a CUDA library that does nothing, on a machine without a GPU.

All that the host does for a launch happens, on tensors in the machine's memory; nothing is computed. Kernels are
compiled for an H100.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch

_SOURCE, _LIBRARY = Path(__file__).with_name("libcuda.c"), "libcuda.so.1"
_CAPABILITY = (9, 0)


class StubUnavailableError(RuntimeError):
    """The stub cannot take the place of the GPU's driver here."""


@contextmanager
def activated() -> Iterator[None]:
    """Let Triton launch kernels on tensors in the machine's memory; they do nothing.

    Raises:
        StubUnavailableError: the machine has a GPU, or no C compiler.
    """
    from triton.runtime import driver  # noqa: PLC0415 - nothing else here needs Triton

    previous = driver._active
    driver.set_active(_driver())
    try:
        yield
    finally:
        driver._active = previous


@contextmanager
def launchers_wrapped(wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Let every launch pass through what ``wrapper`` makes of Triton's launcher."""
    launcher = _driver().launcher_cls
    with mock.patch.object(launcher, "__call__", wrapper(launcher.__call__)):
        yield


def launches() -> int:
    """Return how many kernels were launched so far."""
    return int(_library().stub_launches())


@cache
def _driver() -> Any:
    if torch.cuda.is_available():
        raise StubUnavailableError("there is a GPU: hide it with CUDA_VISIBLE_DEVICES='' to time the host alone")
    _library()
    from triton.backends.nvidia.driver import CudaDriver  # noqa: PLC0415

    class StubDriver(CudaDriver):  # type: ignore[misc]
        """Triton's driver, with what it asks PyTorch about a GPU answered here."""

        # Kernels get addresses, as on a GPU.
        takes_addresses = True

        def __init__(self) -> None:
            super().__init__()
            self.get_device_capability = lambda device=None: _CAPABILITY
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda device: 0
            self.set_current_device = lambda device: None

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

    return StubDriver()


@cache
def _library() -> ctypes.CDLL:
    """Build the library, load it before anybody looks for the real one, and show it to Triton."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise StubUnavailableError("no C compiler was found to build the stub of the CUDA library: install gcc")
    folder = tempfile.mkdtemp(prefix="stub-driver-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # Triton may link with it as long as the process lives
    library = Path(folder) / _LIBRARY
    command = [compiler, "-shared", "-fPIC", "-O2", f"-Wl,-soname,{_LIBRARY}", "-o", str(library), str(_SOURCE)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        raise StubUnavailableError(f"{compiler} could not build the stub of the CUDA library: {built.stderr.strip()}")
    os.environ["TRITON_LIBCUDA_PATH"] = folder  # Triton links its launcher with it
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
