"""Evaluation at the original size, and its files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fastresunet.reference import ResUNetPP
from fastresunet.training.data import find_pairs
from fastresunet.training.errors import UserError
from fastresunet.training.evaluate import evaluate, evaluate_model, load_predictor
from fastresunet.training.fit import TrainingResult
from fastresunet.training.inference import predict_probability
from fastresunet.training.symmetries import SymmetryEnsemble

from .conftest import FILTERS


class ConstantModel(nn.Module):
    """Predicts the same logit everywhere."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, images: Tensor) -> Tensor:
        return self.logit.expand(len(images), 1, *images.shape[2:])


def test_files_hold_every_image_and_both_levels(trained: TrainingResult, shared_data: Path, tmp_path: Path) -> None:
    evaluation = evaluate(trained.best_checkpoint, shared_data, tmp_path, split="all", device="cpu")
    with (tmp_path / "per_image.csv").open() as file:
        images = list(csv.DictReader(file))
    assert [row["image"] for row in images] == [f"{index:04d}" for index in range(12)]
    pixels = sum(int(images[0][name]) for name in ("true_positives", "false_positives", "true_negatives"))
    assert pixels + int(images[0]["false_negatives"]) == 48 * 48
    mean_dice = sum(float(row["dice"]) for row in images) / 12
    assert mean_dice == pytest.approx(evaluation.image_means["dice"], abs=1e-6)
    with (tmp_path / "summary.csv").open() as file:
        summary = {row["metric"]: row for row in csv.DictReader(file)}
    assert float(summary["dice"]["image_mean"]) == pytest.approx(mean_dice, abs=1e-6)
    assert float(summary["f2"]["dataset"]) == pytest.approx(evaluation.dataset_scores["f2"], abs=1e-6)


def test_splits_are_those_of_training(trained: TrainingResult, shared_data: Path) -> None:
    names = {
        split: set(evaluate(trained.best_checkpoint, shared_data, split=split, device="cpu").names)
        for split in ("train", "val", "all")
    }
    assert len(names["val"]) == 2
    assert names["train"] | names["val"] == names["all"]


@pytest.mark.parametrize(("logit", "threshold", "recall"), [(1.0, 0.5, 1), (-1.0, 0.5, 0), (-1.0, 0.2, 1)])
def test_threshold_and_original_sizes(data: Path, logit: float, threshold: float, recall: float) -> None:
    for folder in ("images", "masks"):
        path = data / folder / "0001.png"
        Image.open(path).resize((30, 50)).save(path)
    evaluation = evaluate_model(ConstantModel(logit), find_pairs(data), 32, threshold)
    assert evaluation.counts.sum(1).tolist() == [48 * 48, 30 * 50] + [48 * 48] * 4
    assert evaluation.dataset_scores["recall"] == recall


def test_other_channels_are_named(shared_data: Path, tmp_path: Path) -> None:
    torch.save(ResUNetPP(in_channels=1, num_classes=3, filters=FILTERS).state_dict(), tmp_path / "grey.pth")
    with pytest.raises(UserError, match=r"grey\.pth has in_channels=1 and num_classes=3"):
        evaluate(tmp_path / "grey.pth", shared_data, device="cpu")


def test_diverged_checkpoint_is_named(shared_data: Path, tmp_path: Path) -> None:
    state = ResUNetPP(filters=FILTERS).state_dict()
    state["output.bias"] *= float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"nan\.pth .*values that are not finite"):
        evaluate(tmp_path / "nan.pth", shared_data, device="cpu")


def test_wrong_out_is_found_before_the_work(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(UserError, match=r"cannot write .*file: a file is where a folder should be"):
        evaluate(tmp_path / "no.ckpt", shared_data, tmp_path / "file", device="cpu")


def test_unclear_mask_is_named(trained: TrainingResult, data: Path) -> None:
    Image.open(data / "masks/0003.png").point(lambda level: level // 255).save(data / "masks/0003.png")
    with pytest.raises(UserError, match=r"mask .*0003\.png has pixels above 0 but none above 127"):
        evaluate(trained.best_checkpoint, data, split="all", device="cpu")


def test_augmented_evaluation_scores_the_mean_over_symmetries(trained: TrainingResult, shared_data: Path) -> None:
    checkpoint, (model, _) = trained.best_checkpoint, load_predictor(trained.best_checkpoint, "cpu")
    pairs = find_pairs(shared_data)
    # Two epochs teach little: at 0.5 every pixel might be one class.
    threshold = float(predict_probability(model, pairs[0].read()[0], 32).median())
    augmented = evaluate(checkpoint, shared_data, split="all", augment=True, threshold=threshold, device="cpu")
    expected = evaluate_model(SymmetryEnsemble(model), pairs, 32, threshold)
    assert torch.equal(augmented.counts, expected.counts)
    plain = evaluate(checkpoint, shared_data, split="all", threshold=threshold, device="cpu")
    assert not torch.equal(augmented.counts, plain.counts)
