"""Write files so that a full disk or an interruption never damages what is already there."""

from __future__ import annotations

import csv
import errno
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastresunet.files import replace_file
from fastresunet.training.errors import UserError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
FILE_IN_THE_WAY = (FileExistsError, NotADirectoryError)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; an older file of that name stays until the new one is on disk.

    Args:
        path: file to write; missing parent folders are created.
        content: the whole content.

    Raises:
        UserError: the file cannot be written, for instance because the disk is full.
    """
    with writing_problems_named(path):
        replace_file(path, content)


def check_writable(folder: Path) -> None:
    """Create a folder and write a nameless file in it, to find a wrong ``--out`` before the work and not after.

    Args:
        folder: folder that will be written to.

    Raises:
        UserError: the folder cannot be created or written.
    """
    with writing_problems_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")


@contextmanager
def writing_problems_named(path: Path) -> Iterator[None]:
    """Turn what the operating system says against writing into a message that names the file.

    Args:
        path: file or folder that is written inside the block.

    Raises:
        UserError: an ``OSError`` was raised inside the block.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    reason = "a file is where a folder should be" if isinstance(error, FILE_IN_THE_WAY) else error.strerror or error
    remedy = "free some space or choose another" if error.errno in FULL_DISK else "choose another"
    return UserError(
        f"cannot write {path}: {reason}. Files already written are complete; {remedy} --out, then run again."
    )


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table completely or not at all.

    Args:
        path: CSV file to write.
        header: names of the columns.
        rows: as long as the header each.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, text.getvalue().encode())
