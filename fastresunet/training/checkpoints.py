"""Checkpoints in training and on the command line: Lightning's way to disk, and problems as ``UserError``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from fastresunet import checkpoints
from fastresunet.checkpoints import LoadedNetwork
from fastresunet.errors import CheckpointError
from fastresunet.training.errors import UserError
from fastresunet.training.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to disk: whole files only, and nothing but tensors and plain values read back."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint completely or not at all."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; the arguments after ``path`` are Lightning's and not used."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file as ``fastresunet.checkpoints.read_checkpoint`` does.

    Args:
        path: file written by ``torch.save``.

    Raises:
        UserError: the file cannot be used.
    """
    with _problems_for_users():
        return checkpoints.read_checkpoint(path)


def load_model(path: Path) -> LoadedNetwork:
    """Build the network of a file as ``fastresunet.load`` does, with the image size of its training.

    Args:
        path: file, folder or name that ``fastresunet.load`` reads.

    Raises:
        UserError: the file cannot be used.
    """
    with _problems_for_users():
        return checkpoints.load_with_size(path)


@contextmanager
def _problems_for_users() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise UserError(f"{error}.") from error
