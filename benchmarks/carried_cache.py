"""Compiled kernels in a file, carried from the machine that compiled them to one with a GPU.

The file is a gzipped tar archive of Triton's cache and a description of what made it. What it holds is executed: carry
only what you have made yourself. Needs nothing but Python.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import json
import platform
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

_DESCRIPTION = "made-with.json"
_GROUP = "__grp__"  # such files of Triton's list the files of a kernel by their absolute paths
_PATHS = "child_paths"


def software() -> dict[str, str]:
    """Return what decides whether compiled kernels fit: Triton's version, and Python's for the launchers."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return {"triton": triton, "python": ".".join(platform.python_version_tuple()[:2]), "machine": platform.machine()}


def pack(cache: Path, file: Path, description: Mapping[str, Any]) -> int:
    """Write the file and return how many entries of the cache are in it.

    Args:
        cache: folder of Triton's cache.
        file: that is written.
        description: how it was made, besides ``software``.
    """
    entries = sorted(path for path in cache.iterdir() if path.is_dir())
    with tarfile.open(file, "w:gz") as archive:
        content = {**description, **software(), "entries": len(entries)}
        _add(archive, _DESCRIPTION, json.dumps(content, indent=1).encode())
        for entry in entries:
            for path in sorted(entry.iterdir()):
                if path.is_file():
                    _add(archive, f"{entry.name}/{path.name}", path.read_bytes())
    return len(entries)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def unpack(file: Path, cache: Path) -> str:
    """Put the kernels of a file into a cache, and return in a line what they are and whether they fit.

    A file that cannot be used is said to be so: then everything is compiled, as without it.

    Args:
        file: that ``pack`` has written.
        cache: folder of Triton's cache; it is made.
    """
    try:
        content = gzip.decompress(file.read_bytes())  # whole, so that it is compared with its checksum
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            made_with = json.loads(_read(archive, _DESCRIPTION))
            here = software()
            differing = [name for name in here if made_with.get(name) != here[name]]
            if "triton" in differing or "machine" in differing:
                there, now = _list(made_with, differing), _list(here, differing)
                return f"carried cache does not fit: made with {there}, here {now}"
            for member in archive:
                path = PurePosixPath(member.name)
                if member.isfile() and len(path.parts) == 2 and not {"..", "/"} & {*path.parts}:
                    _write(cache / path.parts[0], path.name, archive.extractfile(member).read())  # type: ignore[union-attr]
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, KeyError) as error:
        return f"carried cache cannot be read: {file}: {type(error).__name__}: {error}"
    rest = f"; its launchers are compiled anew: made with {_list(made_with, differing)}" if differing else ""
    return f"carried cache: {made_with['entries']} entries, Triton {made_with['triton']}{rest}"


def _list(content: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name.capitalize()} {content.get(name)}" for name in names)


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    if found is None:
        raise ValueError(f"{name} is no file in it")
    return found.read()


def _write(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if name.startswith(_GROUP):
        group = json.loads(data)
        group[_PATHS] = {child: str(folder / Path(path).name) for child, path in group[_PATHS].items()}
        data = json.dumps(group).encode()
    (folder / name).write_bytes(data)
