"""Compiled kernels executed on the CPU by ``gpu_emulator``, where it is on the path."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator

import pytest

EMULATOR = importlib.util.find_spec("gpu_emulator") is not None


@pytest.fixture(params=[80, 90], ids=["sm_80", "sm_90"])
def architecture(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run kernels as code compiled for one architecture."""
    if not EMULATOR:
        pytest.skip("runs compiled PTX on the CPU with gpu_emulator, which is not installed here")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("compiles kernels, which TRITON_INTERPRET=1 forbids")
    emulator = importlib.import_module("gpu_emulator")
    emulator.activate(arch=request.param)
    yield request.param
    emulator.deactivate()
