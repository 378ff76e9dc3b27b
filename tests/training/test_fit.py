"""Training, resuming, interruption and full disks."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastresunet.training.errors import TrainingInterruptedError, UserError
from fastresunet.training.fit import TrainingResult, train
from fastresunet.training.lightning_module import SegmentationModule

from .conftest import SMALL


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> None:
    """Call ``action`` once, during the training step of that number."""
    training_step = SegmentationModule.training_step

    def step(self: SegmentationModule, batch: tuple[Tensor, Tensor]) -> Tensor:
        if self.trainer.global_step == number:
            action()
        return training_step(self, batch)

    monkeypatch.setattr(SegmentationModule, "training_step", step)


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_training_leaves_checkpoints_and_logs(trained: TrainingResult) -> None:
    assert trained.best_checkpoint.is_file()
    assert trained.last_checkpoint.is_file()
    assert list((trained.table.parent / "tensorboard").glob("events*"))
    table = rows(trained.table)
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert [row["step"] for row in table] == ["3", "6"]
    assert max(float(row["val_dice"]) for row in table) == pytest.approx(trained.best_dice, abs=1e-6)


def test_same_seed_same_weights(trained: TrainingResult, shared_data: Path, tmp_path: Path) -> None:
    again = train(shared_data, tmp_path, epochs=2, **SMALL)
    torch.testing.assert_close(weights(again.last_checkpoint), weights(trained.last_checkpoint), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("step", "workers"),
    [(1, 0), (2, 0), (4, 0), (4, 1)],
    ids=["in first epoch", "in last step of first epoch", "in second epoch", "with a reading process"],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    trained: TrainingResult,
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    workers: int,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    options = {**SMALL, "workers": workers, "epochs": 2}
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(TrainingInterruptedError, match=r"last\.ckpt.*--resume"):
            train(shared_data, tmp_path, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = train(shared_data, tmp_path, resume=True, **options)
    torch.testing.assert_close(weights(resumed.last_checkpoint), weights(trained.last_checkpoint), rtol=0, atol=0)
    assert [row["epoch"] for row in rows(resumed.table)] == ["1", "2"]
    assert rows(resumed.table)[-1]["val_dice"] == rows(trained.table)[-1]["val_dice"]
    assert resumed.best_dice == trained.best_dice


def test_resume_adds_epochs_and_keeps_rows(trained: TrainingResult, tmp_path: Path, shared_data: Path) -> None:
    shutil.copytree(trained.table.parent, tmp_path / "run")
    before = trained.table.read_text()
    resumed = train(shared_data, tmp_path / "run", epochs=3, resume=True, **SMALL)
    assert resumed.table.read_text().startswith(before)
    assert [row["epoch"] for row in rows(resumed.table)] == ["1", "2", "3"]


def test_full_disk_keeps_the_last_epoch(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    at_step(monkeypatch, 4, lambda: monkeypatch.setattr("os.fsync", full))
    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        train(shared_data, tmp_path, epochs=3, **SMALL)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
    assert [row["epoch"] for row in rows(tmp_path / "epochs.csv")] == ["1"]
    assert not list(tmp_path.glob("*.part"))


def test_early_stopping(shared_data: Path, tmp_path: Path) -> None:
    # A rate this small leaves the validation Dice where it is.
    result = train(shared_data, tmp_path, epochs=9, learning_rate=1e-12, **{**SMALL, "patience": 1})
    assert len(rows(result.table)) < 9


def test_mixed_precision_without_augmentation(shared_data: Path, tmp_path: Path) -> None:
    result = train(shared_data, tmp_path, epochs=1, precision="bf16", augment=False, **SMALL)
    assert 0 <= result.best_dice <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 8}, "size must be at least 32, got 8"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, got inf"),
        ({"precision": "64"}, "precision must be one of 32, bf16, 16, got '64'"),
        ({"precision": "16"}, "float16.*CUDA devices only"),
        ({"filters": (4, 8, 16, 16, 16)}, "se_reduction=8 must not exceed"),
        ({"filters": (8, 8)}, "filters must hold 5 numbers"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"device": "cuda", "devices": 99}, "CUDA devices asked for: 99"),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_named(shared_data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(shared_data, tmp_path, **{"epochs": 1, **SMALL, **changes})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": False}, "already holds a training"),
        ({"epochs": 2}, r"epochs finished in .*last\.ckpt: 2, asked for: 2"),
        ({"size": 64}, "was trained with --size 32, now given: 64"),
        ({"filters": (8, 8, 8, 8, 8)}, r"was trained with --filters 8 8 16 16 16, now given: 8 8 8 8 8"),
        ({"batch_size": 2}, "was trained with --batch-size 4, now given: 2"),
        ({"learning_rate": 0.1}, r"was trained with --lr 0\.001, now given: 0\.1"),
        ({"seed": 3}, "was trained with --seed 0, now given: 3"),
    ],
    ids=["without resume", "finished", "size", "filters", "batch size", "learning rate", "seed"],
)
def test_resume_refuses(trained: TrainingResult, shared_data: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(shared_data, trained.table.parent, **{**SMALL, "epochs": 3, "resume": True, **changes})


def test_resume_needs_a_training_checkpoint(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to resume in .*; drop --resume"):
        train(shared_data, tmp_path, resume=True, **SMALL)
    contents: list[dict[str, Any]] = [{"state_dict": {}}, {"hyper_parameters": "many"}]
    for content in contents:
        torch.save(content, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match="no checkpoint of a training of this package"):
            train(shared_data, tmp_path, resume=True, **SMALL)


def test_resume_needs_the_same_number_of_images(trained: TrainingResult, data: Path) -> None:
    with pytest.raises(UserError, match="was trained with training images 10, now given: 5"):
        train(data, trained.table.parent, epochs=3, resume=True, **SMALL)


def test_divergence_stops_and_saves_nothing(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_step = SegmentationModule.training_step

    def step(self: SegmentationModule, batch: tuple[Tensor, Tensor]) -> Tensor:
        return training_step(self, batch) * (float("nan") if self.trainer.global_step == 4 else 1)

    monkeypatch.setattr(SegmentationModule, "training_step", step)
    with pytest.raises(UserError, match=r"loss in epoch 2, step 5 is not finite.*lower --lr"):
        train(shared_data, tmp_path, epochs=3, **SMALL)
    for name in ("best.ckpt", "last.ckpt"):
        assert all(values.isfinite().all() for values in weights(tmp_path / name).values())
    assert [row["epoch"] for row in rows(tmp_path / "epochs.csv")] == ["1"]


def test_divergence_in_the_last_step_of_an_epoch(shared_data: Path, tmp_path: Path) -> None:
    # The batch holds all images: the loss of the only step is finite, that of the validation after it is not.
    with pytest.raises(UserError, match=r"loss of the validation of epoch 1 is not finite"):
        train(shared_data, tmp_path, learning_rate=1e20, **{**SMALL, "batch_size": 10})
    assert not list(tmp_path.glob("*.ckpt"))


def test_wrong_out_is_found_before_the_images_are_read(data: Path, tmp_path: Path) -> None:
    (data / "images/0002.png").write_bytes(b"")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(UserError, match=r"cannot write .*file: a file is where a folder should be.*choose another"):
        train(data, tmp_path / "file", **SMALL)


def test_file_that_breaks_in_a_reading_process(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastresunet.training.fit.check_pairs", lambda pairs: None)
    (data / "images/0002.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"^cannot read image .*0002\.png") as caught:
        train(data, tmp_path / "run", **{**SMALL, "workers": 1})
    assert "Traceback" not in str(caught.value)


def test_moved_training_keeps_its_best_score(trained: TrainingResult, tmp_path: Path, shared_data: Path) -> None:
    shutil.copytree(trained.table.parent, tmp_path / "moved")
    resumed = train(shared_data, tmp_path / "moved", epochs=3, resume=True, **SMALL)
    assert resumed.best_dice >= trained.best_dice
    assert trained.best_checkpoint.is_file()
