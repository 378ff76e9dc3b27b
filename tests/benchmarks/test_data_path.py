"""The benchmark of the data path, on a few small images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import data_path
from fastresunet.training.data import find_pairs
from fastresunet.training.synthetic import write_polyp_folder


def test_links_make_a_folder_of_any_size(tmp_path: Path) -> None:
    write_polyp_folder(tmp_path / "data", count=2, size=32)
    data_path.link_pairs(tmp_path / "data", 5, tmp_path / "large")
    assert [pair.image.resolve().stem for pair in find_pairs(tmp_path / "large")] == [
        *("0000", "0001", "0000", "0001", "0000")
    ]


def test_every_rate_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_polyp_folder(tmp_path / "data", count=4, size=32)
    options = ["--size", "32", "--batch-size", "2", "--seconds", "0.01", "--pairs", "6"]
    command = ["data_path", "--data", str(tmp_path / "data"), "--json", str(tmp_path / "found.json"), *options]
    monkeypatch.setattr(sys, "argv", command)
    data_path.main()
    found = json.loads((tmp_path / "found.json").read_text())
    rates = ["first reading", "from the store", "data alone", "network alone", "together", "together / slower one"]
    assert [*found["training"]] == rates
    assert all(value > 0 for value in found["training"].values())
    assert found["opening"]["6"]["seconds to the first batch"] > 0
    assert "6 pairs: seconds to the first batch" in capsys.readouterr().out
