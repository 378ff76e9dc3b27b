"""Evaluation at the original size, and its files."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fastresunet.reference import ResUNetPP
from fastresunet.training.data import find_pairs
from fastresunet.training.errors import UserError
from fastresunet.training.evaluate import evaluate, evaluate_model, named_folders
from fastresunet.training.evaluation_files import write_evaluation, write_joint_summary
from fastresunet.training.fit import TrainingResult
from fastresunet.training.inference import predict_probability
from fastresunet.training.statistics import describe
from fastresunet.training.symmetries import SymmetryEnsemble
from fastresunet.training.trained_network import load_predictor

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
    torch.save(ResUNetPP(in_channels=4, filters=FILTERS).state_dict(), tmp_path / "four.pth")
    with pytest.raises(UserError, match=r"four\.pth has in_channels=4; expected 3 \(RGB\) or 1 \(grey\)"):
        evaluate(tmp_path / "four.pth", shared_data, device="cpu")


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
    checkpoint, model = trained.best_checkpoint, load_predictor(trained.best_checkpoint, "cpu").model
    pairs = find_pairs(shared_data)
    # Two epochs teach little: at 0.5 every pixel might be one class.
    threshold = float(predict_probability(model, pairs[0].read()[0], 32).median())
    augmented = evaluate(checkpoint, shared_data, split="all", augment=True, threshold=threshold, device="cpu")
    expected = evaluate_model(SymmetryEnsemble(model), pairs, 32, threshold)
    assert torch.equal(augmented.image_scores["dice"], expected.image_scores["dice"])
    plain = evaluate(checkpoint, shared_data, split="all", threshold=threshold, device="cpu")
    assert not torch.equal(augmented.image_scores["dice"], plain.image_scores["dice"])


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with path.open() as file:
        return list(csv.DictReader(file))


def test_summary_holds_the_statistics_of_the_images(trained: TrainingResult, shared_data: Path, tmp_path: Path) -> None:
    evaluation = evaluate(trained.best_checkpoint, shared_data, tmp_path, split="all", device="cpu")
    row = next(row for row in rows_of(tmp_path / "summary.csv") if row["metric"] == "recall")
    expected = describe(torch.tensor([float(row["recall"]) for row in rows_of(tmp_path / "per_image.csv")]))
    found = [float(row[column]) for column in ("image_mean", "interval_low", "interval_high", "median")]
    assert found == pytest.approx([expected.mean, *expected.interval, expected.median], abs=2e-6)
    assert float(row["standard_deviation"]) == pytest.approx(expected.standard_deviation, abs=2e-6)
    assert row["images"] == "12"
    assert f"Dice {evaluation.image_means['dice']:.3f}" in (tmp_path / "report.html").read_text()


def test_threshold_curve_holds_the_scores_at_that_threshold(
    trained: TrainingResult, shared_data: Path, tmp_path: Path
) -> None:
    evaluate(trained.best_checkpoint, shared_data, tmp_path, split="all", device="cpu")
    rows = rows_of(tmp_path / "thresholds.csv")
    assert [row["threshold"] for row in rows] == [f"{0.05 * step:.2f}" for step in range(1, 20)]
    means = evaluate(trained.best_checkpoint, shared_data, split="all", threshold=0.3, device="cpu").image_means
    assert [float(rows[5][metric]) for metric in ("dice", "iou")] == pytest.approx(
        [means["dice"], means["iou"]], abs=1e-6
    )


def test_calibration_of_a_constant_prediction(shared_data: Path, tmp_path: Path) -> None:
    write_evaluation(evaluate_model(ConstantModel(0.0), find_pairs(shared_data), 32), tmp_path)
    rows = rows_of(tmp_path / "calibration.csv")
    foreground = sum(int(pair.read()[1].sum()) for pair in find_pairs(shared_data))
    filled = [row for row in rows if row["pixels"] != "0"]
    assert len(rows) == 10
    assert [(row["above"], row["up_to"], row["pixels"]) for row in filled] == [("0.4", "0.5", str(12 * 48 * 48))]
    assert float(filled[0]["predicted_probability"]) == 0.5
    assert float(filled[0]["observed_frequency"]) == pytest.approx(foreground / (12 * 48 * 48), abs=1e-6)
    assert rows[0]["predicted_probability"] == ""


def test_surface_distances_leave_out_empty_masks(data: Path, tmp_path: Path) -> None:
    path = data / "masks/0001.png"
    Image.open(path).point(lambda level: 0).save(path)
    evaluation = evaluate_model(ConstantModel(1.0), find_pairs(data), 32, surface_distances=True)
    write_evaluation(evaluation, tmp_path)
    rows = rows_of(tmp_path / "per_image.csv")
    assert [row["hausdorff_95"] == "" for row in rows] == [index == 1 for index in range(6)]
    assert evaluation.without_surface_distances == 1
    summary = {row["metric"]: row for row in rows_of(tmp_path / "summary.csv")}
    values = [float(row["surface_distance"]) for row in rows if row["surface_distance"]]
    assert float(summary["surface_distance"]["image_mean"]) == pytest.approx(sum(values) / 5, abs=1e-6)
    assert (summary["surface_distance"]["images"], summary["surface_distance"]["dataset"]) == ("5", "")
    assert math.isnan(evaluation.dataset_scores["hausdorff_95"])


def test_joint_summary_names_the_data_sets(data: Path, tmp_path: Path) -> None:
    evaluations = {
        name: evaluate_model(ConstantModel(logit), find_pairs(data), 32)
        for name, logit in (("everything", 1.0), ("nothing", -1.0))
    }
    write_joint_summary(evaluations, tmp_path / "summary.csv")
    recall = {row["data_set"]: row for row in rows_of(tmp_path / "summary.csv") if row["metric"] == "recall"}
    assert [float(recall[name]["image_mean"]) for name in ("everything", "nothing")] == [1, 0]


def test_folders_of_the_same_name_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / "first/polyps", tmp_path / "second/polyps"]
    with pytest.raises(UserError, match=r"first/polyps and .*second/polyps are both called 'polyps'"):
        named_folders(folders)


def test_folders_are_called_by_their_own_name(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (other := data.parent / "deeper/Kvasir-SEG").parent.mkdir()
    shutil.copytree(data, other)
    monkeypatch.chdir(data)
    assert named_folders([Path("."), other]) == {"data": Path("."), "Kvasir-SEG": other}


def test_wrong_folder_is_found_before_others_are_scored(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*missing/images"):
        named_folders([data, tmp_path / "missing"])
