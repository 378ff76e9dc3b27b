"""Cross-validation."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest

from fastresunet.training import folds
from fastresunet.training.errors import TrainingInterruptedError
from fastresunet.training.fit import train
from fastresunet.training.folds import train_folds
from fastresunet.training.recipe import Machine
from fastresunet.training.run import read_run
from fastresunet.training.split import split_folds

from .conftest import SMALL
from .test_fit import rows


def test_folds_train_on_their_images_and_go_on_after_an_interruption(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(device="cpu")

    def interrupted(data: Path, folder: Path, *args: object, **options: object) -> object:
        if folder.name == "fold-2":
            raise TrainingInterruptedError("now")
        return train(data, folder, *args, **options)  # type: ignore[arg-type]

    recipe = replace(SMALL, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(folds, "train", interrupted)
        with pytest.raises(TrainingInterruptedError):
            train_folds(shared_data, tmp_path, 3, recipe, machine)
    first = (tmp_path / "fold-1" / "last.ckpt").stat().st_mtime_ns
    result = train_folds(shared_data, tmp_path, 3, recipe, machine, resume=True)
    assert (tmp_path / "fold-1" / "last.ckpt").stat().st_mtime_ns == first
    assert [read_run(tmp_path / f"fold-{number}" / "run.yaml").names for number in (1, 2, 3)] == split_folds(
        shared_data, 3
    )
    best = [float(rows(tmp_path / f"fold-{number}" / "epochs.csv")[0]["val_dice"]) for number in (1, 2, 3)]
    assert result.scores == pytest.approx(best, abs=1e-6)
    assert (result.mean, result.deviation) == pytest.approx((fmean(best), stdev(best)), abs=1e-6)
    with result.table.open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["val_dice"]) for row in table] == pytest.approx(best, abs=1e-6)
    assert {int(row["train"]) + int(row["val"]) for row in table} == {12}
