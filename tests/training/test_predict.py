"""Prediction of files, folders and patterns."""

from __future__ import annotations

import csv
import errno
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastresunet.reference import ResUNetPP
from fastresunet.training import predict_images, prediction_table
from fastresunet.training.checkpoints import load_model
from fastresunet.training.data_format import DataFormat
from fastresunet.training.errors import UserError
from fastresunet.training.files import write_csv
from fastresunet.training.fit import TrainingResult
from fastresunet.training.images import read_image
from fastresunet.training.inference import predict_probability
from fastresunet.training.masks import write_mask
from fastresunet.training.predict import Predicted, predict
from fastresunet.training.prediction_inputs import find_inputs
from fastresunet.training.prediction_table import PredictionTable
from fastresunet.training.predictor import PredictionOptions
from fastresunet.training.sliding_window import predict_tiled
from fastresunet.training.symmetries import SymmetryEnsemble

from .conftest import FILTERS


def run(checkpoint: Path, inputs: Sequence[str | Path], out: Path, **options: Any) -> Predicted:
    return predict(checkpoint, inputs, out, PredictionOptions(device="cpu", **options))


@pytest.fixture
def images(shared_data: Path, tmp_path: Path) -> Path:
    """Folder with a 48x48 PNG, a 61x35 JPEG and a 40x40 grey TIFF."""
    folder = tmp_path / "images"
    folder.mkdir()
    source = Image.open(shared_data / "images/0000.png")
    source.save(folder / "a.png")
    source.resize((61, 35)).save(folder / "b.jpg")
    source.resize((40, 40)).convert("L").save(folder / "c[1].tif")
    return folder


def test_masks_overlays_and_probabilities_have_the_original_size(
    trained: TrainingResult, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    masks, videos = run(trained.best_checkpoint, [images], out, overlays=True, probabilities=True)
    assert videos == []
    assert masks == [out / "masks" / name for name in ("a.png", "b.png", "c[1].png")]
    for name, size in (("a", (48, 48)), ("b", (61, 35)), ("c[1]", (40, 40))):
        mask, probability = Image.open(out / f"masks/{name}.png"), Image.open(out / f"probabilities/{name}.png")
        overlay = Image.open(out / f"overlays/{name}.png")
        assert (mask.size, probability.size, overlay.size) == (size, size, size)
        assert (mask.mode, overlay.mode) == ("L", "RGB")
        grey = np.asarray(probability)
        assert grey.dtype == np.uint16
        assert np.array_equal(np.asarray(mask), np.where(grey > 0.5 * 65535, 255, 0))


def test_only_masks_without_request(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    run(trained.best_checkpoint, [images / "a.png"], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks", "predictions.csv"]


def test_inputs_are_files_folders_and_patterns(images: Path) -> None:
    assert list(find_inputs([images]).images) == ["a", "b", "c[1]"]
    assert list(find_inputs([str(images / "*.jpg"), images / "c[1].tif"]).images) == ["b", "c[1]"]
    assert list(find_inputs([images, images / "a.png"]).images) == ["a", "b", "c[1]"]


def test_bad_inputs_are_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\*\.png' matches no file"):
        find_inputs([str(images / "missing*.png")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image in .*empty"):
        find_inputs([tmp_path / "empty"])
    shutil.copytree(images, tmp_path / "more")
    with pytest.raises(UserError, match=r"would both write a\.png"):
        find_inputs([images, tmp_path / "more"])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_damaged_images_are_named_and_the_others_predicted(
    trained: TrainingResult, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_size: int
) -> None:
    (images / "b.jpg").write_bytes((images / "b.jpg").read_bytes()[:300])
    with pytest.raises(UserError, match=r"^1 of 3 files could not be read: .*b\.jpg; all others are predicted"):
        run(trained.best_checkpoint, [images], tmp_path / "out", batch_size=batch_size)
    assert "cannot read image" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["a.png", "c[1].png"]
    assert [row["image"] for row in rows(tmp_path / "out/predictions.csv")] == ["a", "c[1]"]


def test_damaged_images_alone_are_the_same_problem(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    for path in images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^3 of 3 files could not be read: .*a\.png, .*b\.jpg, .*c\[1\]\.tif"):
        run(trained.best_checkpoint, [images], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_full_disk_keeps_masks_already_written(
    trained: TrainingResult, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(trained.best_checkpoint, [images / "a.png"], out)
    before = (out / "masks/a.png").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.png: No space left"):
        run(trained.best_checkpoint, [images], out, threshold=0.1)
    assert (out / "masks/a.png").read_bytes() == before
    assert [path.name for path in (out / "masks").iterdir()] == ["a.png"]


def test_masks_of_a_data_folder_are_safe(trained: TrainingResult, data: Path) -> None:
    before = {path: path.read_bytes() for path in (data / "masks").iterdir()}
    with pytest.raises(UserError, match=r"--out .*data is a data folder"):
        run(trained.best_checkpoint, [data / "images"], data)
    assert {path: path.read_bytes() for path in (data / "masks").iterdir()} == before


def test_one_file_under_two_paths_is_one_input(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    assert list(find_inputs(["images", images]).images) == ["a", "b", "c[1]"]


def test_diverged_checkpoint_is_named(images: Path, tmp_path: Path) -> None:
    state = ResUNetPP(filters=FILTERS).state_dict()
    state["output.bias"] *= float("inf")
    torch.save(state, tmp_path / "inf.pth")
    with pytest.raises(UserError, match=r"inf\.pth .*values that are not finite"):
        run(tmp_path / "inf.pth", [images], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Levels of 16 bits; float32 rounds alike but for the last bits in batches of another size.
LEVEL = 1 / 65535


def written(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Return the probabilities in an output folder by name."""
    return {path.stem: np.asarray(Image.open(path)) * LEVEL for path in sorted((folder / "probabilities").iterdir())}


def assert_written(folder: Path, expected: dict[str, Tensor]) -> None:
    found = written(folder)
    assert found.keys() == expected.keys()
    for name, probability in expected.items():
        np.testing.assert_allclose(found[name], probability.numpy(), rtol=0, atol=2 * LEVEL)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_of_images_of_different_sizes(
    batch_size: int, trained: TrainingResult, images: Path, tmp_path: Path
) -> None:
    run(trained.best_checkpoint, [images], tmp_path / "out", batch_size=batch_size, probabilities=True)
    model, size, _ = load_model(trained.best_checkpoint)
    assert size is not None
    alone = {
        name: predict_probability(model, read_image(path), size)[0]
        for name, path in find_inputs([images]).images.items()
    }
    assert_written(tmp_path / "out", alone)


def test_augmented_prediction(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "augmented", tmp_path / "plain"
    run(trained.best_checkpoint, [images], out, augment=True, probabilities=True)
    run(trained.best_checkpoint, [images], plain, probabilities=True)
    ensemble = SymmetryEnsemble(load_model(trained.best_checkpoint)[0])
    expected = {
        name: predict_probability(ensemble, read_image(path), 32)[0]
        for name, path in find_inputs([images]).images.items()
    }
    assert_written(out, expected)
    assert np.abs(written(out)["b"] - written(plain)["b"]).max() > 10 * LEVEL


def test_tiled_prediction(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"overlap": 0.25, "batch_size": 2}
    run(trained.best_checkpoint, [images], tmp_path / "out", tile=32, probabilities=True, **options)
    model = load_model(trained.best_checkpoint)[0]
    expected = {
        name: predict_tiled(model, read_image(path), 32, **options)[0]
        for name, path in find_inputs([images]).images.items()
    }
    assert_written(tmp_path / "out", expected)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_table_says_what_the_masks_and_probabilities_say(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(trained.best_checkpoint, [images], out, probabilities=True, batch_size=2)
    for row, (name, probability) in zip(rows(out / "predictions.csv"), written(out).items(), strict=True):
        mask = np.asarray(Image.open(out / f"masks/{name}.png")) > 0
        assert (row["image"], row["height"], row["width"]) == (name, *map(str, mask.shape))
        assert int(row["area"]) == mask.sum()
        assert float(row["share"]) == pytest.approx(mask.mean(), abs=1e-6)
        assert float(row["highest"]) == pytest.approx(probability.max(), abs=1e-4)
        left, top, right, bottom = Image.fromarray(mask).getbbox() or [""] * 4
        assert [row[edge] for edge in ("left", "top", "right", "bottom")] == [*map(str, (left, top, right, bottom))]
        assert row["confidence"] == "" or float(row["confidence"]) == pytest.approx(probability[mask].mean(), abs=1e-4)


def test_an_interrupted_prediction_keeps_the_rows_of_its_masks(
    trained: TrainingResult, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, mask: Tensor, form: DataFormat) -> None:
        if path.stem == "c[1]":
            raise KeyboardInterrupt
        write_mask(path, mask, form)

    monkeypatch.setattr(predict_images, "write_mask", interrupted)
    monkeypatch.setattr(prediction_table, "GROWTH", 10)
    with pytest.raises(KeyboardInterrupt):
        run(trained.best_checkpoint, [images], tmp_path / "out")
    assert [row["image"] for row in rows(tmp_path / "out/predictions.csv")] == ["a", "b"]


def test_existing_masks_are_left_out_and_keep_their_rows(
    trained: TrainingResult, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(trained.best_checkpoint, [images / "a.png", images / "b.jpg"], out)
    before, table = (out / "masks/a.png").read_bytes(), rows(out / "predictions.csv")
    Image.new("RGB", (48, 48)).save(images / "a.png")
    (out / "masks/b.png").unlink()
    masks, _ = run(trained.best_checkpoint, [images], out, skip_existing=True)
    assert [path.name for path in masks] == ["b.png", "c[1].png"]
    assert "Already there and left out: 1 of 3 files" in capsys.readouterr().out
    assert (out / "masks/a.png").read_bytes() == before
    assert rows(out / "predictions.csv")[:2] == table
    assert [row["image"] for row in rows(out / "predictions.csv")] == ["a", "b", "c[1]"]


def test_existing_masks_without_a_row_get_one_without_confidence(
    trained: TrainingResult, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(trained.best_checkpoint, [images], out, threshold=0)
    expected = [{**row, "confidence": "", "highest": ""} for row in rows(out / "predictions.csv")]
    (out / "predictions.csv").unlink()
    assert run(trained.best_checkpoint, [images], out, skip_existing=True).masks == []
    assert rows(out / "predictions.csv") == expected


def test_another_table_in_the_way_is_named(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.csv").write_text("image,dice\na,0.5\n")
    with pytest.raises(UserError, match=r"predictions\.csv is no table of predictions"):
        run(trained.best_checkpoint, [images], tmp_path / "out", skip_existing=True)


def test_a_long_table_is_not_written_for_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []

    def counted(path: Path, header: Sequence[str], table_rows: Iterable[Sequence[object]]) -> None:
        writes.append(path)
        write_csv(path, header, table_rows)

    monkeypatch.setattr(prediction_table, "write_csv", counted)
    with PredictionTable(tmp_path / "predictions.csv") as table:
        for index in range(300):
            table.add(f"frame {index}, left", torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3))
    assert len(writes) < 60
    found = rows(tmp_path / "predictions.csv")
    assert [row["image"] for row in found] == [f"frame {index}, left" for index in range(300)]
    assert {(row["area"], row["left"], row["confidence"], row["highest"]) for row in found} == {("0", "", "", "0.0000")}
