"""Write files whole: a full disk or an interruption never damages what is already there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    Args:
        path: file to write; missing parent folders are created.
        content: the whole content.

    Raises:
        OSError: the file cannot be written.
    """
    with unfinished(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a name to write to; the file becomes ``path`` at the end of the block, and is removed if the block fails.

    An older file called ``path`` stays until the new one is on disk.

    Args:
        path: file to write; missing parent folders are created.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            # Without this a power failure could leave the new name on an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
