"""Interpreted kernels: Triton decides when it is imported, so these tests need a process of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.patched_once import patch_once_a_kernel

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the interpreted tests in processes that compile kernels."""
    if _INTERPRETED:
        return
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1, which `make test` sets in a second run"))


@pytest.fixture(autouse=True, scope="session")
def _patched_once_a_kernel() -> Iterator[None]:
    if not _INTERPRETED:
        yield
        return
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch_once_a_kernel(monkeypatch)
        yield
