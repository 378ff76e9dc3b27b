"""Prediction of files, folders and patterns."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastresunet.reference import ResUNetPP
from fastresunet.training.checkpoints import load_model
from fastresunet.training.errors import UserError
from fastresunet.training.fit import TrainingResult
from fastresunet.training.images import read_image
from fastresunet.training.inference import predict_probability
from fastresunet.training.predict import find_inputs, predict
from fastresunet.training.sliding_window import predict_tiled
from fastresunet.training.symmetries import SymmetryEnsemble

from .conftest import FILTERS


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
    masks = predict(trained.best_checkpoint, [images], out, overlays=True, probabilities=True, device="cpu")
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
    predict(trained.best_checkpoint, [images / "a.png"], tmp_path / "out", device="cpu")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["masks"]


def test_inputs_are_files_folders_and_patterns(images: Path) -> None:
    assert list(find_inputs([images])) == ["a", "b", "c[1]"]
    assert list(find_inputs([str(images / "*.jpg"), images / "c[1].tif"])) == ["b", "c[1]"]
    assert list(find_inputs([images, images / "a.png"])) == ["a", "b", "c[1]"]


def test_bad_inputs_are_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\*\.png' matches no file"):
        find_inputs([str(images / "missing*.png")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image in .*empty"):
        find_inputs([tmp_path / "empty"])
    shutil.copytree(images, tmp_path / "more")
    with pytest.raises(UserError, match=r"would both write a\.png"):
        find_inputs([images, tmp_path / "more"])


def test_corrupt_image_keeps_masks_already_written(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    (images / "b.jpg").write_bytes((images / "b.jpg").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cannot read image .*b\.jpg"):
        predict(trained.best_checkpoint, [images], tmp_path / "out", device="cpu")
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["a.png"]


def test_full_disk_keeps_masks_already_written(
    trained: TrainingResult, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    predict(trained.best_checkpoint, [images / "a.png"], out, device="cpu")
    before = (out / "masks/a.png").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.png: No space left"):
        predict(trained.best_checkpoint, [images], out, threshold=0.1, device="cpu")
    assert (out / "masks/a.png").read_bytes() == before
    assert [path.name for path in (out / "masks").iterdir()] == ["a.png"]


def test_masks_of_a_data_folder_are_safe(trained: TrainingResult, data: Path) -> None:
    before = {path: path.read_bytes() for path in (data / "masks").iterdir()}
    with pytest.raises(UserError, match=r"--out .*data is a data folder"):
        predict(trained.best_checkpoint, [data / "images"], data, device="cpu")
    assert {path: path.read_bytes() for path in (data / "masks").iterdir()} == before


def test_one_file_under_two_paths_is_one_input(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    assert list(find_inputs(["images", images])) == ["a", "b", "c[1]"]


def test_diverged_checkpoint_is_named(images: Path, tmp_path: Path) -> None:
    state = ResUNetPP(filters=FILTERS).state_dict()
    state["output.bias"] *= float("inf")
    torch.save(state, tmp_path / "inf.pth")
    with pytest.raises(UserError, match=r"inf\.pth .*values that are not finite"):
        predict(tmp_path / "inf.pth", [images], tmp_path / "out", device="cpu")
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
    predict(
        trained.best_checkpoint, [images], tmp_path / "out", batch_size=batch_size, probabilities=True, device="cpu"
    )
    model, size = load_model(trained.best_checkpoint)
    assert size is not None
    alone = {name: predict_probability(model, read_image(path), size) for name, path in find_inputs([images]).items()}
    assert_written(tmp_path / "out", alone)


def test_augmented_prediction(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "augmented", tmp_path / "plain"
    predict(trained.best_checkpoint, [images], out, augment=True, probabilities=True, device="cpu")
    predict(trained.best_checkpoint, [images], plain, probabilities=True, device="cpu")
    ensemble = SymmetryEnsemble(load_model(trained.best_checkpoint)[0])
    expected = {
        name: predict_probability(ensemble, read_image(path), 32) for name, path in find_inputs([images]).items()
    }
    assert_written(out, expected)
    assert np.abs(written(out)["b"] - written(plain)["b"]).max() > 10 * LEVEL


def test_tiled_prediction(trained: TrainingResult, images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"overlap": 0.25, "batch_size": 2}
    predict(trained.best_checkpoint, [images], tmp_path / "out", tile=32, probabilities=True, device="cpu", **options)
    model = load_model(trained.best_checkpoint)[0]
    expected = {
        name: predict_tiled(model, read_image(path), 32, **options) for name, path in find_inputs([images]).items()
    }
    assert_written(tmp_path / "out", expected)


def test_corrupt_image_after_a_full_batch_keeps_all_masks_before_it(
    trained: TrainingResult, images: Path, tmp_path: Path
) -> None:
    (images / "c[1].tif").write_bytes(b"II*")
    with pytest.raises(UserError, match=r"cannot read image .*c\[1\]\.tif"):
        predict(trained.best_checkpoint, [images], tmp_path / "out", batch_size=2, device="cpu")
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["a.png", "b.png"]
