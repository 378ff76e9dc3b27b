"""Write files so that a full disk or an interruption never damages what is already there."""

from __future__ import annotations

import os
from pathlib import Path

from fastresunet.training.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; an older file of that name stays until the new one is on disk.

    Args:
        path: file to write; missing parent folders are created.
        content: the whole content.

    Raises:
        UserError: the file cannot be written, for instance because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                # Without this a power failure could leave the new name on an empty file.
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Files already written are complete; "
            "free some space or choose another --out, then run again."
        ) from error
