"""Pictures of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastresunet.training import pictures
from fastresunet.training.data import find_pairs
from fastresunet.training.evaluate import evaluate_model
from fastresunet.training.fit import TrainingResult
from fastresunet.training.metrics import best_constant_dice
from fastresunet.training.pictures import write_curves, write_validation_sheet
from fastresunet.training.trained_network import load_predictor

from .conftest import SMALL

ROW = {"train_loss": "1.0", "val_loss": "1.5", "val_dice": "0.25", "val_iou": "0.125", "learning_rate": "1e-3"}


def test_a_training_leaves_pictures(trained: TrainingResult) -> None:
    for name in ("curves.png", "validation.png"):
        with Image.open(trained.table.parent / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10, name


def test_tensorboard_has_images_and_learning_rates(trained: TrainingResult) -> None:
    events = EventAccumulator(str(trained.table.parent / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["validation: truth, prediction"]
    rates = [x for x in events.Tags()["scalars"] if x.startswith("lr-")]
    assert len(events.Scalars(rates[0])) == 6


def test_curves_change_with_the_table(tmp_path: Path) -> None:
    contents = []
    for dice in ("0.5", "0.75"):
        write_curves(tmp_path / "curves.png", [{"epoch": "1", **ROW}, {"epoch": "2", **ROW, "val_dice": dice}])
        contents.append((tmp_path / "curves.png").read_bytes())
    assert contents[0] != contents[1]


def test_sheet_shows_best_median_and_worst(
    trained: TrainingResult, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    monkeypatch.setattr(
        pictures, "write_sheet", lambda path, rows, title, form: captions.extend(row[3] for row in rows)
    )
    model = load_predictor(trained.best_checkpoint, "cpu").model
    evaluation = write_validation_sheet(tmp_path / "sheet.png", model, find_pairs(shared_data), SMALL.size)
    dice = evaluation.image_scores["dice"].sort(descending=True).values.tolist()
    kinds = [("best", dice[0]), ("best", dice[1]), ("median", dice[6]), ("worst", dice[10]), ("worst", dice[11])]
    assert captions == [f"{kind}: Dice {value:.3f}" for kind, value in kinds]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["best"]),
        (2, ["best", "worst"]),
        (3, ["best", "median", "worst"]),
        (4, ["best", "best", "median", "worst"]),
        (5, ["best", "best", "median", "worst", "worst"]),
    ],
)
def test_sheet_of_few_images(
    count: int,
    expected: list[str],
    trained: TrainingResult,
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds: list[str] = []
    monkeypatch.setattr(
        pictures, "write_sheet", lambda path, rows, *rest: kinds.extend(x.caption.partition(":")[0] for x in rows)
    )
    model = load_predictor(trained.best_checkpoint, "cpu").model
    write_validation_sheet(tmp_path / "sheet.png", model, find_pairs(shared_data)[:count], SMALL.size)
    assert kinds == expected


def test_result_has_the_score_of_the_best_constant(trained: TrainingResult, shared_data: Path) -> None:
    model = load_predictor(trained.best_checkpoint, "cpu").model
    validated = [pair for pair in find_pairs(shared_data) if pair.name in ("0004", "0010")]
    counts = evaluate_model(model, validated, SMALL.size).counts
    assert trained.constant_dice == pytest.approx(best_constant_dice(counts[:, None]))
