"""Interpreted kernels: Triton decides when it is imported, so these tests need a process of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the interpreted tests in processes that compile kernels."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1, which `make test` sets in a second run"))
