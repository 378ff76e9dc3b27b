"""Training, evaluation and prediction from CUDA graphs, on a stand-in for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from fastresunet.cli import main
from fastresunet.cuda_graphs import GraphedInference, capture
from fastresunet.cuda_graphs.capture import Capture
from fastresunet.training import evaluate, fit, predict
from fastresunet.training.callbacks import StopOnDivergence
from fastresunet.training.errors import TrainingInterruptedError, UserError
from fastresunet.training.fit import TrainingResult, takes_graphs
from fastresunet.training.graphed_module import GraphedSegmentationModule
from fastresunet.training.image_store import ImageStore
from fastresunet.training.images import read_image
from fastresunet.training.lightning_module import SegmentationModule
from fastresunet.training.loaders import SegmentationData
from fastresunet.training.predictor import PredictionOptions
from fastresunet.training.recipe import Machine
from fastresunet.training.run import Run
from fastresunet.training.split import Names, split_pairs
from fastresunet.training.trained_network import load_predictor
from tests.cuda_graphs.recorder import RecordingCapturer

from .conftest import SMALL, train_small
from .test_fit import at_step, rows, weights


class ComputingCapturer(RecordingCapturer):
    """Computes anew in place of every replay."""

    def capture(self, compute: Callable[[], Tensor]) -> Capture:
        self.captures += 1
        result = torch.zeros(())
        return Capture(result, lambda: setattr(result, "data", compute()))


def use(monkeypatch: pytest.MonkeyPatch, capturer: RecordingCapturer) -> RecordingCapturer:
    """Train on the CPU as on a GPU that captures so."""
    monkeypatch.setattr(capture, "capturer_for", lambda device: capturer)
    monkeypatch.setattr(fit, "takes_graphs", lambda *arguments: True)
    return capturer


@pytest.fixture
def capturer(monkeypatch: pytest.MonkeyPatch) -> RecordingCapturer:
    return use(monkeypatch, RecordingCapturer())


# Ten training images: batches of 4, 4 and 2; two validation images.
EPOCHS = 2


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_graphs_train_as_eager_steps_do(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    results = []
    for name, capturer in (("graphs", RecordingCapturer()), ("eager", ComputingCapturer())):
        use(monkeypatch, capturer)
        results.append(train_small(shared_data, tmp_path / name, epochs=EPOCHS, precision=precision))
        # Both training shapes and the validation's; the first call of each is eager.
        assert (capturer.runs, capturer.captures) == (3, 3)
        assert isinstance(capturer, ComputingCapturer) or capturer.replays == 4 * EPOCHS - 3
    found, expected = results
    torch.testing.assert_close(weights(found.last_checkpoint), weights(expected.last_checkpoint), rtol=0, atol=0)
    assert rows(found.table) == rows(expected.table)
    assert [row["step"] for row in rows(found.table)] == ["3", "6"]


def test_interrupted_and_resumed_equals_uninterrupted(
    capturer: RecordingCapturer, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_small(shared_data, tmp_path / "whole", epochs=EPOCHS)
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(TrainingInterruptedError):
            train_small(shared_data, tmp_path / "parts", epochs=EPOCHS)
    resumed = train_small(shared_data, tmp_path / "parts", epochs=EPOCHS, resume=True)
    torch.testing.assert_close(weights(resumed.last_checkpoint), weights(whole.last_checkpoint), rtol=0, atol=0)
    assert resumed.best_score == whole.best_score


def test_trainings_go_on_with_and_without_graphs(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capturer = RecordingCapturer()
    for epochs, graphs in ((1, True), (2, False), (3, True)):
        with monkeypatch.context() as patch:
            if graphs:
                use(patch, capturer)
            result = train_small(shared_data, tmp_path, epochs=epochs, resume=epochs > 1)
        checkpoint = torch.load(result.last_checkpoint, weights_only=True)
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            assert isinstance(group["lr"], float)
            assert group["capturable"] is False
        assert checkpoint["global_step"] == 3 * epochs
        assert all(values.isfinite().all() for values in checkpoint["state_dict"].values())
    assert capturer.replays > 0


@pytest.mark.parametrize(
    "changes",
    [{"accumulate": 2}, {"clip_norm": 1e-3}, {"weight_decay": 0.5}, {"loss": "tversky"}],
    ids=lambda changes: next(iter(changes)),
)
def test_graphs_follow_the_recipe(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    # AdamW would blow up the rounding of gradients that are 0, those of biases before a normalisation.
    changes = {"optimizer": "sgd", "average": 0.0, **changes}
    eager = train_small(shared_data, tmp_path / "eager", epochs=EPOCHS, **changes)
    use(monkeypatch, RecordingCapturer())
    found = train_small(shared_data, tmp_path / "graphs", epochs=EPOCHS, **changes)
    for row, expected in zip(rows(found.table), rows(eager.table), strict=True):
        assert row["step"] == expected["step"]
        assert float(row["train_loss"]) == pytest.approx(float(expected["train_loss"]), rel=1e-4)
    torch.testing.assert_close(weights(found.last_checkpoint), weights(eager.last_checkpoint), rtol=1e-3, atol=1e-5)


def test_float16_leaves_the_scaler_to_lightning(capturer: RecordingCapturer, shared_data: Path, tmp_path: Path) -> None:
    train_pairs, val_pairs = split_pairs(shared_data, SMALL.val_fraction)
    store = ImageStore([*train_pairs, *val_pairs], SMALL.size)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=1000)
    recipe = replace(SMALL, precision="16")
    module = GraphedSegmentationModule(Run(recipe, Names(("a",), ("b",)), {}))
    trainer = Trainer(
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = [parameter.clone() for parameter in module.parameters()]
    trainer.fit(module, datamodule=SegmentationData(store, train_pairs, val_pairs, recipe))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["MixedPrecision"]["scale"]
    assert saved == scaler.get_scale() == 2.0 ** (100 - 6)  # every step overflowed and was left out
    assert all(torch.equal(x, y) for x, y in zip(module.parameters(), before, strict=True))
    assert capturer.replays > 0


def test_divergence_stops_and_saves_nothing(
    capturer: RecordingCapturer, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_step = SegmentationModule.training_step

    def step(self: SegmentationModule, batch: tuple[Tensor, Tensor]) -> Tensor:
        return training_step(self, batch) * (float("nan") if self.trainer.global_step == 3 else 1)

    monkeypatch.setattr(SegmentationModule, "training_step", step)
    with pytest.raises(UserError, match=r"loss in epoch 2, step 4 is not finite"):
        train_small(shared_data, tmp_path, epochs=EPOCHS)
    assert [row["epoch"] for row in rows(tmp_path / "epochs.csv")] == ["1"]


def test_an_interruption_after_divergence_saves_nothing(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_step = SegmentationModule.training_step

    def step(self: SegmentationModule, batch: tuple[Tensor, Tensor]) -> Tensor:
        if self.trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, batch) * float("nan")

    monkeypatch.setattr(SegmentationModule, "training_step", step)
    with pytest.raises(UserError, match=r"loss in epoch 1, step 1 is not finite"):
        train_small(shared_data, tmp_path, epochs=1)
    assert not list(tmp_path.glob("*.ckpt"))


def test_the_loss_is_not_read_in_every_step() -> None:
    callback, unreadable = StopOnDivergence(), torch.empty((), device="meta")

    def end_step(number: int, is_last: bool = False) -> None:
        trainer: Any = SimpleNamespace(is_last_batch=is_last, global_step=number)
        callback.on_train_batch_end(trainer, None, {"loss": unreadable}, None, 0)  # type: ignore[arg-type]

    end_step(1)
    end_step(49)
    for number, is_last in ((50, False), (51, True)):
        with pytest.raises(RuntimeError, match="meta"):
            end_step(number, is_last)


@pytest.mark.parametrize(
    ("device", "devices", "compile_model", "taken", "line"),
    [
        ("cuda", 1, False, True, ""),
        ("cuda", 2, False, False, "No CUDA graphs: --devices is above 1.\n"),
        ("cuda", 1, True, False, "No CUDA graphs: --compile takes their place.\n"),
        ("cpu", 1, False, False, ""),
        ("cpu", 2, True, False, ""),
    ],
)
def test_when_training_takes_graphs(
    device: Any, devices: int, compile_model: bool, taken: bool, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert takes_graphs(device, devices, compile_model) is taken
    assert capsys.readouterr().out == line


def test_training_without_graphs_on_request(
    capturer: RecordingCapturer, shared_data: Path, tmp_path: Path, trained: TrainingResult
) -> None:
    result = train_small(shared_data, tmp_path, epochs=1, cuda_graphs=False)
    assert rows(result.table)[0]["train_loss"]
    assert capturer.runs == 0


@pytest.mark.parametrize("options", [{}, {"augment": True}, {"tile": 32}], ids=["", "augmented", "tiled"])
def test_prediction_from_graphs(
    capturer: RecordingCapturer, trained: TrainingResult, shared_data: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    predictions = [
        predict.predict(
            trained.best_checkpoint,
            [shared_data / "images"],
            tmp_path / str(graphs),
            PredictionOptions(batch_size=5, probabilities=True, device="cpu", cuda_graphs=graphs, **options),
        ).masks
        for graphs in (True, False)
    ]
    assert capturer.replays > 0
    for found, expected in zip(*predictions, strict=True):
        assert torch.equal(read_image(found), read_image(expected))


def test_evaluation_from_graphs(capturer: RecordingCapturer, trained: TrainingResult, shared_data: Path) -> None:
    options: dict[str, Any] = {"split": "all", "device": "cpu"}
    found = evaluate.evaluate(trained.best_checkpoint, shared_data, **options)
    assert (capturer.captures, capturer.replays) == (1, 11)
    expected = evaluate.evaluate(trained.best_checkpoint, shared_data, cuda_graphs=False, **options)
    assert torch.equal(found.image_scores["dice"], expected.image_scores["dice"])
    assert isinstance(load_predictor(trained.best_checkpoint, "cpu")[0], GraphedInference)


@pytest.mark.parametrize("words", [[], ["--no-cuda-graphs"]], ids=["", "without"])
@pytest.mark.parametrize(
    ("module", "command"),
    [
        (fit, ["train", "--data", "d", "--out", "o"]),
        (evaluate, ["evaluate", "--checkpoint", "kvasir-seg", "--data", "DATA"]),
        (predict, ["predict", "--checkpoint", "c", "--out", "o", "image.png"]),
    ],
    ids=["train", "evaluate", "predict"],
)
def test_command_line(
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    command: list[str],
    words: list[str],
    tmp_path: Path,
    shared_data: Path,
) -> None:
    given: dict[str, Any] = {}

    def called(*arguments: object, **options: object) -> None:
        record = next((x for x in arguments if isinstance(x, Machine | PredictionOptions)), None)
        given.update(options if record is None else vars(record))
        raise UserError("enough")

    monkeypatch.setattr(module, command[0], called)
    # Folders are looked at before the work.
    command = [str(shared_data) if word == "DATA" else word for word in command]
    assert main([*command, *words]) == 1
    assert given["cuda_graphs"] is (not words)
