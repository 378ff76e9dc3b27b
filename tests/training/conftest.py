"""A small synthetic data folder and a small training, shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastresunet.training.fit import TrainingResult, train
from fastresunet.training.recipe import Machine, Recipe
from fastresunet.training.synthetic import write_polyp_folder

FILTERS = (8, 8, 16, 16, 16)
# A recipe for tests: small, with averages that forget soon, and a share that leaves 2 of 12 images to validate.
SMALL = Recipe(size=32, batch_size=4, filters=FILTERS, augmentation="light", average=0.5, val_fraction=0.044)


def train_small(data: Path, out: Path, **changes: Any) -> TrainingResult:
    """Train on the CPU by ``SMALL``, with changes of its fields, of ``Machine``'s, and of ``train``'s options."""
    recipe, machine = (
        {field.name: changes.pop(field.name) for field in fields(record) if field.name in changes}
        for record in (Recipe, Machine)
    )
    return train(data, out, replace(SMALL, **recipe), Machine(**{"device": "cpu", **machine}), **changes)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: these networks are too small for more, and several threads stall on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 12 pairs of 48x48 pixels; tests must not change it."""
    folder = tmp_path_factory.mktemp("shared") / "data"
    write_polyp_folder(folder, count=12, size=48)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Folder of 6 pairs of 48x48 pixels that a test may damage."""
    folder = tmp_path / "data"
    write_polyp_folder(folder, count=6, size=48)
    return folder


@pytest.fixture(scope="session")
def trained(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """Two epochs on ``shared_data``; tests must not change its files."""
    return train_small(shared_data, tmp_path_factory.mktemp("trained"), epochs=2)
