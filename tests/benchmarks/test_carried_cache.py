"""Compiled kernels carried in a file: found by Triton elsewhere, and refused with the reason where they do not fit."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks import carried_cache
from benchmarks.gpu_check.processes import ROOT

# Compiles a kernel over a CUDA library that does nothing, and prints how often it had to.
_COMPILE = """
import torch, triton
from benchmarks import stub_driver
from benchmarks.gpu_check.ceilings import empty_kernel
compiled = []
triton.knobs.compilation.listener = lambda *, cache_hit, **others: compiled.append(not cache_hit)
with stub_driver.activated():
    empty_kernel[(1,)](torch.ones(1))
print(sum(compiled), "compiled")
"""


def compiled_in(cache: Path) -> str:
    """Return what a process that uses a cache says."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_STORE_BINARY_ONLY": "1"}
    command = [sys.executable, "-c", _COMPILE]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return found.stdout.strip()


def test_triton_finds_what_was_carried(tmp_path: Path) -> None:
    there, here, file = tmp_path / "there", tmp_path / "here", tmp_path / "kernels.tar.gz"
    assert compiled_in(there) == "1 compiled"
    entries = carried_cache.pack(there, file, {"capability": "9.0"})
    there.rename(tmp_path / "gone")
    message = carried_cache.unpack(file, here)
    assert message.startswith(f"carried cache: {entries} entries, Triton ")
    assert "compiled anew" not in message
    assert compiled_in(here) == "0 compiled"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache with one kernel."""
    entry = tmp_path / "cache" / "KEY"
    entry.mkdir(parents=True)
    (entry / "kernel.cubin").write_bytes(b"code")
    (entry / "__grp__kernel.json").write_text(
        json.dumps({"child_paths": {"kernel.cubin": str(entry / "kernel.cubin")}})
    )
    return entry.parent


def test_paths_are_those_of_the_new_place(cache: Path, tmp_path: Path) -> None:
    carried_cache.pack(cache, tmp_path / "file.tar.gz", {})
    carried_cache.unpack(tmp_path / "file.tar.gz", tmp_path / "new")
    group = json.loads((tmp_path / "new" / "KEY" / "__grp__kernel.json").read_text())
    assert group["child_paths"] == {"kernel.cubin": str(tmp_path / "new" / "KEY" / "kernel.cubin")}


def test_another_triton_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = carried_cache.software()
    monkeypatch.setattr(carried_cache, "software", lambda: {**here, "triton": "3.8.0"})
    carried_cache.pack(cache, tmp_path / "file.tar.gz", {})
    monkeypatch.setattr(carried_cache, "software", lambda: {**here, "triton": "3.6.0"})
    message = carried_cache.unpack(tmp_path / "file.tar.gz", tmp_path / "new")
    assert message == "carried cache does not fit: made with Triton 3.8.0, here Triton 3.6.0"
    assert not (tmp_path / "new").exists()


def test_another_python_compiles_launchers_anew(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = carried_cache.software()
    monkeypatch.setattr(carried_cache, "software", lambda: {**here, "python": "3.9"})
    carried_cache.pack(cache, tmp_path / "file.tar.gz", {})
    monkeypatch.undo()
    message = carried_cache.unpack(tmp_path / "file.tar.gz", tmp_path / "new")
    assert message.endswith("; its launchers are compiled anew: made with Python 3.9")
    assert (tmp_path / "new" / "KEY" / "kernel.cubin").read_bytes() == b"code"


@pytest.mark.parametrize("content", [None, b"", b"no archive"], ids=["missing", "empty", "other"])
def test_a_file_that_cannot_be_read_stops_nothing(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "file.tar.gz"
    if content is not None:
        file.write_bytes(content)
    assert carried_cache.unpack(file, tmp_path / "new").startswith(f"carried cache cannot be read: {file}: ")


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_file_stops_nothing(damage: str, cache: Path, tmp_path: Path) -> None:
    (cache / "KEY" / "kernel.cubin").write_bytes(random.Random(0).randbytes(300_000))
    file = tmp_path / "file.tar.gz"
    carried_cache.pack(cache, file, {})
    data, half = file.read_bytes(), file.stat().st_size // 2
    file.write_bytes(data[:half] if damage == "cut" else data[:half] + bytes(2000) + data[half + 2000 :])
    assert carried_cache.unpack(file, tmp_path / "new").startswith(f"carried cache cannot be read: {file}: ")


def test_nothing_is_written_outside_of_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "file.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        content = json.dumps({**carried_cache.software(), "entries": 0}).encode()
        for name in ("made-with.json", f"/{tmp_path.name}", "../outside", "KEY/kernel.cubin"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    carried_cache.unpack(file, tmp_path / "new")
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file() and path != file]
    assert written == [Path("new/KEY/kernel.cubin")]
