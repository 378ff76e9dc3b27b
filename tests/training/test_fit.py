"""Training, resuming, interruption and full disks."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fastresunet.model import FastResUNetPP
from fastresunet.training import image_store
from fastresunet.training.averaging import MovingAverage
from fastresunet.training.errors import TrainingInterruptedError, UserError
from fastresunet.training.fit import TrainingResult
from fastresunet.training.lightning_module import SegmentationModule
from fastresunet.training.run import names_in, read_run

from .conftest import SMALL, train_small


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
    assert max(float(row["val_dice"]) for row in table) == pytest.approx(trained.best_score, abs=1e-6)


def test_same_seed_same_weights(trained: TrainingResult, shared_data: Path, tmp_path: Path) -> None:
    again = train_small(shared_data, tmp_path, epochs=2)
    torch.testing.assert_close(weights(again.last_checkpoint), weights(trained.last_checkpoint), rtol=0, atol=0)


@pytest.mark.parametrize("step", [1, 2, 4], ids=["in first epoch", "in last step of first epoch", "in second epoch"])
def test_interrupted_and_resumed_equals_uninterrupted(
    trained: TrainingResult,
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(TrainingInterruptedError, match=r"last\.ckpt.*--resume"):
            train_small(shared_data, tmp_path, epochs=2)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = train_small(shared_data, tmp_path, epochs=2, resume=True)
    torch.testing.assert_close(weights(resumed.last_checkpoint), weights(trained.last_checkpoint), rtol=0, atol=0)
    assert [row["epoch"] for row in rows(resumed.table)] == ["1", "2"]
    assert rows(resumed.table)[-1]["val_dice"] == rows(trained.table)[-1]["val_dice"]
    assert resumed.best_score == trained.best_score


def test_resume_adds_epochs_and_keeps_rows(trained: TrainingResult, tmp_path: Path, shared_data: Path) -> None:
    shutil.copytree(trained.table.parent, tmp_path / "run")
    before = trained.table.read_text()
    resumed = train_small(shared_data, tmp_path / "run", epochs=3, resume=True)
    assert resumed.table.read_text().startswith(before)
    assert [row["epoch"] for row in rows(resumed.table)] == ["1", "2", "3"]


def test_full_disk_keeps_the_last_epoch(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    at_step(monkeypatch, 4, lambda: monkeypatch.setattr("os.fsync", full))
    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        train_small(shared_data, tmp_path, epochs=3)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
    assert [row["epoch"] for row in rows(tmp_path / "epochs.csv")] == ["1"]
    assert not list(tmp_path.glob("*.part"))


def test_early_stopping(shared_data: Path, tmp_path: Path) -> None:
    # A rate this small leaves the validation Dice where it is.
    result = train_small(shared_data, tmp_path, epochs=9, lr=1e-12, patience=1)
    assert len(rows(result.table)) < 9


def test_mixed_precision_without_augmentation(shared_data: Path, tmp_path: Path) -> None:
    result = train_small(shared_data, tmp_path, epochs=1, precision="bf16", augmentation="none")
    assert 0 <= result.best_score <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 8}, "size must be a whole number, at least 32, got 8"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"epochs": 0}, "epochs must be a whole number, at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ({"lr": float("inf")}, "lr must be positive and finite, got inf"),
        ({"precision": "64"}, "precision must be one of auto, 32, bf16, 16, got '64'"),
        ({"precision": "16"}, "float16.*CUDA devices only"),
        ({"filters": (4, 8, 16, 16, 16)}, "se_reduction=8 must not exceed"),
        ({"filters": (8, 8)}, "filters must hold 5 numbers"),
        ({"patience": -1}, "patience must be a whole number, at least 0"),
        ({"device": "cuda", "devices": 99}, "CUDA devices asked for: 99"),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_named(shared_data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_small(shared_data, tmp_path, **{"epochs": 1, **changes})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": False}, "already holds a training"),
        ({"epochs": 2}, r"epochs finished in .*last\.ckpt: 2, asked for: 2"),
        ({"size": 64}, "was trained with --size 32, now given: 64"),
        ({"filters": (8, 8, 8, 8, 8)}, r"was trained with --filters 8 8 16 16 16, now given: 8 8 8 8 8"),
        ({"batch_size": 2}, "was trained with --batch-size 4, now given: 2"),
        ({"lr": 0.1}, r"was trained with --lr 0\.001, now given: 0\.1"),
        ({"seed": 3}, "was trained with --seed 0, now given: 3"),
    ],
    ids=["without resume", "finished", "size", "filters", "batch size", "learning rate", "seed"],
)
def test_resume_refuses(trained: TrainingResult, shared_data: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_small(shared_data, trained.table.parent, **{"epochs": 3, "resume": True, **changes})


def test_resume_needs_a_training_checkpoint(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to resume in .*; drop --resume"):
        train_small(shared_data, tmp_path, resume=True)
    contents: list[dict[str, Any]] = [{"state_dict": {}}, {"hyper_parameters": "many"}]
    for content in contents:
        torch.save(content, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match="no checkpoint of a training of this package"):
            train_small(shared_data, tmp_path, resume=True)


def test_resume_needs_the_images_of_the_training(trained: TrainingResult, data: Path) -> None:
    with pytest.raises(UserError, match=r"names images that are not in .*: '0006', '0007', '0008' and 3 more"):
        train_small(data, trained.table.parent, epochs=3, resume=True)


def test_divergence_stops_and_saves_nothing(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_step = SegmentationModule.training_step

    def step(self: SegmentationModule, batch: tuple[Tensor, Tensor]) -> Tensor:
        return training_step(self, batch) * (float("nan") if self.trainer.global_step == 4 else 1)

    monkeypatch.setattr(SegmentationModule, "training_step", step)
    with pytest.raises(UserError, match=r"loss in epoch 2, step 5 is not finite.*lower --lr"):
        train_small(shared_data, tmp_path, epochs=3)
    for name in ("best.ckpt", "last.ckpt"):
        assert all(values.isfinite().all() for values in weights(tmp_path / name).values())
    assert [row["epoch"] for row in rows(tmp_path / "epochs.csv")] == ["1"]


def test_divergence_in_the_last_step_of_an_epoch(shared_data: Path, tmp_path: Path) -> None:
    # The batch holds all images: the loss of the only step is finite, that of the validation after it is not.
    with pytest.raises(UserError, match=r"loss of the validation of epoch 1 is not finite"):
        train_small(shared_data, tmp_path, lr=1e20, batch_size=10)
    assert not list(tmp_path.glob("*.ckpt"))


def test_wrong_out_is_found_before_the_images_are_read(data: Path, tmp_path: Path) -> None:
    (data / "images/0002.png").write_bytes(b"")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(UserError, match=r"cannot write .*file: a file is where a folder should be.*choose another"):
        train_small(data, tmp_path / "file")


def test_moved_training_keeps_its_best_score(trained: TrainingResult, tmp_path: Path, shared_data: Path) -> None:
    shutil.copytree(trained.table.parent, tmp_path / "moved")
    resumed = train_small(shared_data, tmp_path / "moved", epochs=3, resume=True)
    assert resumed.best_score >= trained.best_score
    assert trained.best_checkpoint.is_file()


def test_the_average_is_validated_and_saved(shared_data: Path, tmp_path: Path) -> None:
    result = train_small(shared_data, tmp_path, epochs=1, average=0.9)
    checkpoint = torch.load(result.last_checkpoint, weights_only=True)
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    name = "model.output.weight"
    assert not torch.equal(averaged[name], current[name])
    counter = next(key for key in averaged if key.endswith("num_batches_tracked"))
    assert averaged[counter] == current[counter] == 3


@pytest.mark.parametrize(("share", "kept"), [(0.9, [2 / 11, 3 / 12]), (0.2, [2 / 11, 0.2])])
def test_averages_reach_back_further_with_every_step(share: float, kept: list[float]) -> None:
    average, network = MovingAverage(share), nn.Linear(1, 1, bias=False)
    average._average_model = AveragedModel(network, multi_avg_fn=average._update, use_buffers=True)
    expected = 0.0
    for step in range(3):
        with torch.no_grad():
            network.weight.fill_(10.0**step)
        trainer = SimpleNamespace(global_step=step)
        average._latest_update_step = step - 1
        average.on_train_batch_end(trainer, network, None, None, step)  # type: ignore[arg-type]
        # The first update copies.
        expected = 1.0 if step == 0 else kept[step - 1] * expected + (1 - kept[step - 1]) * 10.0**step
        assert next(average._average_model.parameters()).item() == pytest.approx(expected)


def test_gradients_of_batches_are_averaged(shared_data: Path, tmp_path: Path) -> None:
    result = train_small(shared_data, tmp_path, epochs=2, batch_size=2, accumulate=2)
    assert [row["step"] for row in rows(result.table)] == ["3", "6"]


@pytest.mark.parametrize("clip_norm", [1e-3, 0.0], ids=["clipped", "as they are"])
def test_gradients_are_clipped(shared_data: Path, tmp_path: Path, clip_norm: float) -> None:
    # Without momentum the weights move by no more than the clipped norm.
    changes = {"optimizer": "sgd", "clip_norm": clip_norm, "warm_up": 0.0, "weight_decay": 0.0, "average": 0.0}
    result = train_small(shared_data, tmp_path, epochs=1, lr=1.0, batch_size=10, **changes)
    seed_everything(SMALL.seed, verbose=False)
    start = FastResUNetPP(filters=SMALL.filters or ()).state_dict()
    after = weights(result.last_checkpoint)
    moved = torch.stack([(after[f"model.{name}"] - x).norm() for name, x in start.items() if "weight" in name]).norm()
    # Nesterov's first step is 1.9 gradients long.
    assert (float(moved) < 2e-3) is bool(clip_norm)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "dice"},
        {"loss": "tversky"},
        {"loss": "focal"},
        {"optimizer": "sgd"},
        {"schedule": "constant"},
        {"augmentation": "none"},
        {"augmentation": "strong"},
        {"average": 0.0},
        {"seed": 5},
    ],
    ids=lambda changes: " ".join(map(str, next(iter(changes.items())))),
)
def test_every_choice_changes_the_training(
    trained: TrainingResult, shared_data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    result = train_small(shared_data, tmp_path, epochs=1, **changes)
    assert not torch.equal(
        weights(result.last_checkpoint)["model.output.weight"], weights(trained.last_checkpoint)["model.output.weight"]
    )


@pytest.mark.parametrize(
    ("monitor", "best"), [("val_dice", max), ("val_iou", max), ("val_loss", min)], ids=lambda value: str(value)
)
def test_the_best_checkpoint_is_that_of_the_monitored_score(
    shared_data: Path, tmp_path: Path, monitor: Any, best: Callable[[list[float]], float]
) -> None:
    result = train_small(shared_data, tmp_path, epochs=3, monitor=monitor)
    values = [float(row[monitor]) for row in rows(result.table)]
    assert result.best_score == pytest.approx(best(values), abs=1e-6)
    epoch = torch.load(result.best_checkpoint, weights_only=True)["epoch"]
    assert values[epoch] == best(values)


def test_damaged_pairs_are_left_out_of_training_and_record(data: Path, tmp_path: Path) -> None:
    (data / "images/0002.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read image .*0002\.png"):
        train_small(data, tmp_path / "stopped", epochs=1)
    train_small(data, tmp_path / "run", epochs=1, skip_damaged=True)
    run = read_run(tmp_path / "run" / "run.yaml")
    assert sorted((*run.names.train, *run.names.val)) == ["0000", "0001", "0003", "0004", "0005"]


def test_sets_that_fit_nowhere_train_from_a_cache(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: TrainingResult
) -> None:
    monkeypatch.setattr(image_store, "MOST_BYTES_IN_MEMORY", 1)
    decoded = train_small(shared_data, tmp_path / "decoded", epochs=2)
    cached = train_small(shared_data, tmp_path / "cached", epochs=2, cache=tmp_path / "cache")
    for result in (decoded, cached):
        torch.testing.assert_close(weights(result.last_checkpoint), weights(trained.last_checkpoint), rtol=0, atol=0)


def test_images_that_came_later_are_left_out_when_resuming(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train_small(data, tmp_path / "run", epochs=1)
    names = read_run(tmp_path / "run" / "run.yaml").names
    for folder in ("images", "masks"):
        shutil.copy(data / folder / "0000.png", data / folder / "new.png")
    train_small(data, tmp_path / "run", epochs=2, resume=True)
    assert read_run(tmp_path / "run" / "run.yaml").names == names
    assert "1 images of" in capsys.readouterr().out
    assert names_in(first.last_checkpoint) == names
