"""What a result says of the machine and the source it was measured with."""

from __future__ import annotations

from pathlib import Path

from fastresunet.training.info import revision


def test_a_copy_without_git_carries_its_revision(tmp_path: Path) -> None:
    assert revision(tmp_path).startswith("not available")
    (tmp_path / ".revision").write_text("abc123\n")
    assert revision(tmp_path) == "abc123"
