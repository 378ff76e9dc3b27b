"""Compiled kernels executed on the CPU by ``gpu_emulator``, where it is on the path."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator

import pytest

EMULATOR = importlib.util.find_spec("gpu_emulator") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long: float32 in every configuration, and real layer sizes beyond the forward pass on sm_80."""
    for item in items:
        layers = "compiled/test_layers.py" in item.nodeid
        if ("compiled/test_configs.py" in item.nodeid and "-fp32-" in item.nodeid) or (
            layers and ("sm_90" in item.nodeid or "test_backward" in item.nodeid)
        ):
            item.add_marker(pytest.mark.thorough)


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
