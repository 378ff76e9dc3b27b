"""The recipe of the shipped weights, on a small made-up data set: data in a file, augmentation, a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.pretraining import __main__ as recipe
from benchmarks.pretraining.packed import pack, unpack
from fastresunet import pretrained
from fastresunet.training.split import split_pairs
from fastresunet.training.synthetic import write_polyp_folder
from fastresunet.training.transforms import resize_image, resize_mask

SIZE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images and masks."""
    folder = tmp_path_factory.mktemp("data")
    write_polyp_folder(folder, 24, 48, seed=0)
    return folder


@pytest.fixture(scope="module")
def file(data: Path) -> Path:
    """Return the same packed."""
    path = data / "packed.npz"
    pack(data, path, SIZE)
    return path


def test_what_is_packed_is_what_training_would_read(data: Path, file: Path) -> None:
    for split, pairs in zip(("train", "val"), split_pairs(data), strict=True):
        found = unpack(file, split)
        assert found.names == [pair.name for pair in pairs]
        for pair, image, mask in zip(pairs, found.images, found.masks, strict=True):
            expected_image, expected_mask = pair.read()
            assert torch.equal(mask[0], resize_mask(expected_mask, SIZE))
            assert (image.float() - resize_image(expected_image, SIZE).float()).abs().mean() < 3


def test_the_images_held_back_are_not_trained_on(file: Path) -> None:
    split = unpack(file, "train")
    train, held = recipe.split_off(split)
    assert len(held.names) == len(split.names) // 10
    assert sorted([*train.names, *held.names]) == sorted(split.names)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    rates = [recipe.learning_rate(step, step / 2000) for step in range(2001)]
    assert max(rates) < 1e-3
    assert rates.index(max(rates)) == 499
    assert rates[-1] == 0


def test_a_run_leaves_weights_and_scores(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {**recipe.NETWORK, "filters": [8, 8, 8, 16, 16]}
    monkeypatch.setattr(recipe, "NETWORK", network)
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    command = ["pretraining", "--data", str(file), "--out", str(tmp_path), "--seconds", "2", "--batch-size", "4"]
    monkeypatch.setattr(sys, "argv", command)
    recipe.main()
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["steps"] > 0
    assert len(content["curve"]) <= 12
    assert 0 <= content["scores"]["validation"]["dice"] <= 1
    assert f"validation {content['scores']['validation']['dice']}" in capsys.readouterr().out
    found = pretrained.load_pretrained("weights")
    assert (found.arguments, found.size) == (network, SIZE)
