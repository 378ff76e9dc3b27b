"""Masks of several classes, grey images and other ways to write masks, through training, evaluation and prediction."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fastresunet import load
from fastresunet.checkpoints import load_with_size
from fastresunet.cli import main
from fastresunet.training.augmentation import DRAWS, STRONG, augment
from fastresunet.training.data import find_pairs
from fastresunet.training.data_format import DataFormat, parse_classes
from fastresunet.training.evaluate import evaluate, evaluate_classes
from fastresunet.training.evaluation import ClassesEvaluation
from fastresunet.training.fit import TrainingResult
from fastresunet.training.inference import predict_probability
from fastresunet.training.loss_choices import choose_loss
from fastresunet.training.losses import bce_dice_loss, cross_entropy_dice_loss
from fastresunet.training.masks import read_mask
from fastresunet.training.metrics import best_constant_dice, class_counts, mean_over_classes, scores
from fastresunet.training.overlay import draw_overlay
from fastresunet.training.recipe import Loss
from fastresunet.training.trained_network import load_predictor
from tests.training.conftest import train_small

ENTRIES = ("background 0", "square 100", "disk #ff8000")
FORM = DataFormat(classes=parse_classes(ENTRIES))


def write_shapes(folder: Path, count: int) -> None:
    """Write images of 48x48 pixels with a dark square, a bright disk, both or nothing, and their coloured masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    for number in range(count):
        image = np.full((48, 48, 3), 120.0)
        mask = np.zeros((48, 48, 3), np.uint8)
        for kind, (value, colour) in enumerate([(40, (100, 100, 100)), (220, (255, 128, 0))]):
            y, x = generator.integers(10, 38, 2)
            near = np.stack([abs(rows - y), abs(columns - x)])
            shape = near.max(0) < 7 if kind == 0 else (near**2).sum(0) < 64
            if number % 4 in (kind, 2):
                image[shape], mask[shape] = value, colour
        image += generator.normal(0, 4, image.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"images/{number:04d}.png")
        Image.fromarray(mask).save(folder / f"masks/{number:04d}.png")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "shapes"
    write_shapes(folder, 16)
    return folder


@pytest.fixture(scope="module")
def trained_on_shapes(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    out = tmp_path_factory.mktemp("trained-on-shapes")
    return train_small(shapes, out, epochs=30, classes=ENTRIES, lr=0.01, val_fraction=0.3)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_training_learns_all_classes(trained_on_shapes: TrainingResult, shapes: Path) -> None:
    assert trained_on_shapes.best_score > 2 * trained_on_shapes.constant_dice
    evaluation = evaluate(trained_on_shapes.best_checkpoint, shapes, device="cpu")
    assert isinstance(evaluation, ClassesEvaluation)
    assert [*evaluation.classes] == ["square", "disk"]
    assert all(each.dataset_scores["dice"] > 0.5 for each in evaluation.classes.values())


def test_a_checkpoint_knows_its_classes(trained_on_shapes: TrainingResult) -> None:
    network, size, form = load_predictor(trained_on_shapes.best_checkpoint, "cpu")
    assert (size, form) == (32, FORM)
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_scores_are_those_of_the_likeliest_class(
    trained_on_shapes: TrainingResult, shapes: Path, tmp_path: Path
) -> None:
    evaluation = evaluate(trained_on_shapes.best_checkpoint, shapes, tmp_path, split="all", device="cpu")
    assert isinstance(evaluation, ClassesEvaluation)
    network, size, form = load_predictor(trained_on_shapes.best_checkpoint, "cpu")
    expected: list[list[float]] = []
    for pair in find_pairs(shapes, form):
        image, mask = pair.read()
        prediction = predict_probability(network, image, size).argmax(0)
        overlaps = [int(((prediction == number) & (mask == number)).sum()) for number in (1, 2)]
        totals = [int((prediction == number).sum() + (mask == number).sum()) for number in (1, 2)]
        expected.append([2 * x / total if total else math.nan for x, total in zip(overlaps, totals, strict=True)])
    found = torch.stack([each.image_scores["dice"] for each in evaluation.classes.values()], dim=1)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    means = found.nanmean(1).nan_to_num(1.0)
    torch.testing.assert_close(evaluation.image_scores["dice"], means)
    assert [float(row["dice"]) for row in rows(tmp_path / "per_image.csv")] == pytest.approx(means.tolist(), abs=1e-6)
    of_classes = rows(tmp_path / "per_class.csv")
    assert [row["class"] for row in of_classes] == ["square"] * 16 + ["disk"] * 16
    assert [row["dice"] for row in of_classes] == [
        "" if np.isnan(x) else f"{x:.6f}" for x in found.T.flatten().tolist()
    ]
    summary = {(row["class"], row["metric"]): row for row in rows(tmp_path / "summary.csv")}
    assert float(summary["mean of classes", "dice"]["image_mean"]) == pytest.approx(means.mean().item(), abs=1e-6)
    assert int(summary["disk", "dice"]["images"]) == int((~found[:, 1].isnan()).sum())
    curves = {(row["class"], row["threshold"]): float(row["dice"]) for row in rows(tmp_path / "thresholds.csv")}
    assert {name for name, _ in curves} == {"square", "disk"}
    for number, name in enumerate(evaluation.classes, start=1):
        at_half = []
        for pair in find_pairs(shapes, form):
            image, mask = pair.read()
            above = predict_probability(network, image, size)[number] > 0.5
            total = int(above.sum() + (mask == number).sum())
            at_half += [2 * int((above & (mask == number)).sum()) / total] if total else []
        assert curves[name, "0.50"] == pytest.approx(sum(at_half) / len(at_half), abs=1e-6)
    assert sum(int(row["pixels"]) for row in rows(tmp_path / "calibration.csv")) == 2 * 16 * 48 * 48


def test_report_shows_the_classes(trained_on_shapes: TrainingResult, shapes: Path, tmp_path: Path) -> None:
    evaluation = evaluate(
        trained_on_shapes.best_checkpoint, shapes, tmp_path, split="all", surface_distances=True, device="cpu"
    )
    text = (tmp_path / "report.html").read_text()
    assert f"Dice {evaluation.image_means['dice']:.3f}" in text
    assert "polyp" not in text.lower()
    assert 'style="background: rgb(255, 128, 0)"></span><b>disk</b>' in text
    assert text.count('<figure class="card"') == 16
    assert "Hausdorff" in text


@pytest.mark.parametrize("augment", [False, True], ids=["", "augment"])
def test_prediction_writes_what_training_reads(
    augment: bool, trained_on_shapes: TrainingResult, shapes: Path, tmp_path: Path
) -> None:
    options = ["--augment"] if augment else []
    command = ["predict", "--checkpoint", str(trained_on_shapes.best_checkpoint), "--out", str(tmp_path / "out")]
    assert main([*command, "--overlays", "--probabilities", *options, str(shapes / "images/000*.png")]) == 0
    table = rows(tmp_path / "out/predictions.csv")
    assert [(row["image"], row["class"]) for row in table[:4]] == [
        ("0000", "square"),
        ("0000", "disk"),
        ("0001", "square"),
        ("0001", "disk"),
    ]
    probabilities = {
        name: np.asarray(Image.open(tmp_path / f"out/probabilities/0002.{number}-{name}.png")) / 65535
        for number, name in enumerate(("background", "square", "disk"))
    }
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    mask = read_mask(tmp_path / "out/masks/0002.png", FORM).numpy()
    assert np.array_equal(mask, np.stack([*probabilities.values()]).argmax(0))
    for number, name in enumerate(("square", "disk"), start=1):
        row = next(row for row in table if (row["image"], row["class"]) == ("0002", name))
        assert int(row["area"]) == (mask == number).sum()
        assert float(row["highest"]) == pytest.approx(probabilities[name].max(), abs=1e-4)
    before = (tmp_path / "out/predictions.csv").read_bytes()
    assert main([*command, "--skip-existing", *options, str(shapes / "images/000*.png")]) == 0
    assert (tmp_path / "out/predictions.csv").read_bytes() == before
    (tmp_path / "out/predictions.csv").unlink()
    assert main([*command, "--skip-existing", *options, str(shapes / "images/000*.png")]) == 0
    again = rows(tmp_path / "out/predictions.csv")
    assert [row["area"] for row in again] == [row["area"] for row in table]


def test_overlays_have_the_colours_of_the_classes(
    trained_on_shapes: TrainingResult, shapes: Path, tmp_path: Path
) -> None:
    command = ["predict", "--checkpoint", str(trained_on_shapes.best_checkpoint), "--out", str(tmp_path)]
    assert main([*command, "--overlays", str(shapes / "images/0002.png")]) == 0
    image, overlay = (
        np.asarray(Image.open(path)) for path in (shapes / "images/0002.png", tmp_path / "overlays/0002.png")
    )
    mask = read_mask(tmp_path / "masks/0002.png", FORM).numpy()
    inside = np.zeros_like(mask, dtype=bool)
    inside[1:-1, 1:-1] = True
    for shift in (-2, -1, 1, 2):
        for axis in (0, 1):
            inside &= np.roll(mask, shift, axis) == mask
    for number, colour in enumerate(FORM.colours, start=1):
        place = inside & (mask == number)
        assert place.any()
        expected = 0.7 * image[place] + 0.3 * np.array(colour)
        assert np.abs(overlay[place] - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_exports_keep_the_classes(suffix: str, trained_on_shapes: TrainingResult, shapes: Path, tmp_path: Path) -> None:
    file = tmp_path / f"shapes{suffix}"
    command = ["export", "--checkpoint", str(trained_on_shapes.best_checkpoint), "--out", str(file)]
    assert main([*command, "--format", suffix[1:]]) == 0
    if suffix == ".onnx":
        onnx = pytest.importorskip("onnx", reason="writing ONNX files needs the cpu extra")
        about = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert json.loads(about["classes"]) == [*map(str, FORM.classes)]
        assert "softmax" in about["output"]
        return
    assert load_with_size(file).classes == ENTRIES
    assert load(file).num_classes == 3
    kept = evaluate(file, shapes, split="all", device="cpu")
    assert (
        kept.image_means == evaluate(trained_on_shapes.best_checkpoint, shapes, split="all", device="cpu").image_means
    )


def test_weights_of_another_task_start_all_but_the_last_layer(
    trained: TrainingResult, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(trained.best_checkpoint)
    result = train_small(shapes, tmp_path / "out", epochs=1, lr=1e-9, checkpoint=start, filters=None, classes=ENTRIES)
    assert "has num_classes=1, not 3: the last layer starts at 0" in capsys.readouterr().out
    before, after = load(start).state_dict(), load(result.last_checkpoint).state_dict()
    assert after["output.weight"].shape[0] == 3
    assert after["output.weight"].abs().max() < 1e-6
    for name, x in before.items():
        if name.endswith(".weight") and not name.startswith("output."):
            torch.testing.assert_close(after[name], x, rtol=0, atol=1e-6)


def test_networks_and_masks_that_do_not_fit_are_told(
    trained: TrainingResult,
    trained_on_shapes: TrainingResult,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, data = str(trained_on_shapes.best_checkpoint), ["--data", str(shapes)]
    assert main(["evaluate", *data, "--checkpoint", checkpoint, "--foreground", "1"]) == 1
    assert "has num_classes=3, but masks are to be read with 1" in capsys.readouterr().err
    assert main(["evaluate", *data, "--checkpoint", checkpoint, "--classes", "2"]) == 1
    assert "has num_classes=3, but masks are to be read with 2" in capsys.readouterr().err
    start = ["--checkpoint", str(trained.best_checkpoint), "--in-channels", "1"]
    assert main(["train", *data, "--out", str(tmp_path), *start]) == 1
    assert "has in_channels=3, images are to be read with 1; give --in-channels 3" in capsys.readouterr().err


def test_grey_images_with_masks_of_ones_and_a_suffix(shapes: Path, tmp_path: Path) -> None:
    data = tmp_path / "ultrasound"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    for path in sorted((shapes / "images").iterdir()):
        Image.open(path).convert("L").save(data / "images" / path.name)
        mask = np.asarray(Image.open(shapes / "masks" / path.name)).max(2) > 0
        Image.fromarray(mask.astype(np.uint8)).save(data / f"masks/{path.stem}_seg.png")
    run = tmp_path / "run"
    small = ["--size", "32", "--epochs", "2", "--batch-size", "4", "--filters", "8", "8", "16", "16", "16"]
    meaning = ["--in-channels", "1", "--foreground", "1", "--mask-suffix", "_seg"]
    folder = ["--data", str(data)]
    assert main(["train", *folder, "--out", str(run), "--device", "cpu", *small, *meaning]) == 0
    assert load(run / "best.ckpt").in_channels == 1
    assert main(["evaluate", *folder, "--checkpoint", str(run / "best.ckpt"), "--out", str(run / "evaluation")]) == 0
    assert main(["train", *folder, "--out", str(tmp_path / "again"), "--config", str(run / "run.yaml")]) == 0
    # Masks that are written are 0 and 255, whatever those of the training are.
    out = tmp_path / "out"
    command = ["predict", "--checkpoint", str(run / "best.ckpt"), "--out", str(out), "--threshold", "0.3"]
    assert main([*command, "--overlays", str(shapes / "images")]) == 0
    assert {*np.unique(np.asarray(Image.open(out / "masks/0000.png")))} <= {0, 255}
    assert np.asarray(Image.open(out / "overlays/0000.png")).shape == (48, 48, 3)
    before = rows(out / "predictions.csv")
    (out / "predictions.csv").unlink()
    assert main([*command, "--skip-existing", str(shapes / "images")]) == 0
    assert [row["area"] for row in rows(out / "predictions.csv")] == [row["area"] for row in before]


def test_classes_in_another_order_are_refused(
    trained_on_shapes: TrainingResult, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes.txt").write_text("\n".join([ENTRIES[0], ENTRIES[2], ENTRIES[1]]))
    command = ["evaluate", "--data", str(shapes), "--checkpoint", str(trained_on_shapes.best_checkpoint)]
    assert main([*command, "--classes", str(tmp_path / "classes.txt")]) == 1
    expected = "has its classes in another order: background, square, disk; got background, disk, square"
    assert expected in capsys.readouterr().err


def test_files_that_name_no_such_classes_have_numbered_ones(trained_on_shapes: TrainingResult, tmp_path: Path) -> None:
    state = load(trained_on_shapes.best_checkpoint).state_dict()
    for number, classes in enumerate((["background", "square", "disk"], ["background 0", "square 1"])):
        file = tmp_path / f"{number}.pth"
        torch.save({"state_dict": state, "hyper_parameters": {"classes": classes}}, file)
        assert load_predictor(file, "cpu").form.foreground_names == ("class 1", "class 2")


def test_masks_without_anything_are_mentioned(
    shapes: Path, trained: TrainingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    for path in (data / "masks").iterdir():
        Image.fromarray(np.full((48, 48), 255, np.uint8)).save(path)
    options = ["--split", "all", "--foreground"]
    command = ["evaluate", "--data", str(data), "--checkpoint", str(trained.best_checkpoint), *options]
    assert main([*command, "1"]) == 0
    message = "Nothing is marked in any of the 16 masks. Expected pixels of the grey levels 1."
    assert message in capsys.readouterr().out
    assert main(command) == 0  # all above 127
    assert "Nothing is marked" not in capsys.readouterr().out


def test_masks_of_another_checkpoint_are_not_kept(
    trained: TrainingResult,
    trained_on_shapes: TrainingResult,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["predict", str(shapes / "images/0002.png"), "--out", str(tmp_path), "--checkpoint"]
    assert main([*command, str(trained.best_checkpoint), "--threshold", "0"]) == 0
    (tmp_path / "predictions.csv").unlink()
    assert main([*command, str(trained_on_shapes.best_checkpoint), "--skip-existing"]) == 1
    assert "0002.png cannot be kept: this checkpoint does not write such masks" in capsys.readouterr().err


def test_classes_that_no_mask_shows_are_named(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_small(shapes, tmp_path / "out", epochs=1, classes=(*ENTRIES, "star 7"))
    assert "No mask of 32x32 pixels shows: star 7\n" in capsys.readouterr().out


def test_a_threshold_has_no_part(
    trained_on_shapes: TrainingResult, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(trained_on_shapes.best_checkpoint), "--threshold", "0.3"]
    for command in (["evaluate", "--data", str(shapes)], ["predict", str(shapes / "images"), "--out", str(tmp_path)]):
        assert main([*command, *options]) == 0
        assert "The threshold has no part in the masks of several classes." in capsys.readouterr().out


def test_classes_that_touch_keep_their_outlines() -> None:
    mask = torch.zeros(40, 40, dtype=torch.uint8)
    mask[10:30, 10:20], mask[10:30, 20:30] = 1, 2
    picture = draw_overlay(torch.zeros(3, 40, 40, dtype=torch.uint8), mask, FORM.colours)
    for column, colour in ((10, 0), (19, 0), (20, 1), (29, 1)):
        assert picture[:, 20, column].tolist() == [*FORM.colours[colour]]
    assert picture[:, 20, 9].tolist() == picture[:, 20, 30].tolist() == [0, 0, 0]


def test_classes_go_with_a_folder(trained_on_shapes: TrainingResult, tmp_path: Path) -> None:
    load(trained_on_shapes.best_checkpoint).save_pretrained(tmp_path / "shapes", size=32, classes=ENTRIES)
    assert load_predictor(tmp_path / "shapes", "cpu")[1:] == (32, FORM)


def test_resuming_and_folds_keep_the_format(shapes: Path, tmp_path: Path) -> None:
    train_small(shapes, tmp_path / "out", epochs=1, classes=ENTRIES)
    command = ["train", "--data", str(shapes), "--out", str(tmp_path / "out"), "--resume", "--device", "cpu"]
    assert main([*command, "--epochs", "2"]) == 0
    small = ["--size", "32", "--epochs", "1", "--batch-size", "4", "--filters", "8", "8", "16", "16", "16"]
    (tmp_path / "classes.txt").write_text("\n".join(ENTRIES))
    folds = ["train", "--data", str(shapes), "--out", str(tmp_path / "folds"), "--folds", "2", "--device", "cpu"]
    assert main([*folds, *small, "--classes", str(tmp_path / "classes.txt")]) == 0


def formula(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus Dice of the classes 1 and 2, in float64, from one-hot masks."""
    probability = logits.double().softmax(1)
    truth = F.one_hot(target[:, 0].long(), 3).permute(0, 3, 1, 2).double()
    cross_entropy = -(truth * probability.log()).sum(1).mean()
    overlap, total = (2 * probability * truth).sum((2, 3)) + 1, (probability + truth).sum((2, 3)) + 1
    return cross_entropy + (1 - overlap / total)[:, 1:].mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loss_equals_formula(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(3, 3, 8, 10, generator=generator)).to(dtype)
    target = torch.randint(3, (3, 1, 8, 10), generator=generator).float()
    target[0] = 0
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy_dice_loss(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), formula(logits, target), rtol=1e-6, atol=0)


def test_two_classes_are_a_foreground_and_a_background() -> None:
    """A softmax over two logits is the sigmoid of their difference."""
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 2, 8, 8, generator=generator), torch.randint(2, (2, 1, 8, 8), generator=generator)
    torch.testing.assert_close(
        cross_entropy_dice_loss(logits, target), bce_dice_loss(logits[:, 1:] - logits[:, :1], target)
    )


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"target must have shape \(2, 1, 8, 8\), got \(2, 3, 8, 8\)"):
        cross_entropy_dice_loss(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("name", ["bce-dice", "dice", "tversky", "focal"])
def test_every_loss_falls_with_better_logits_and_bears_missing_classes(name: Loss) -> None:
    loss = choose_loss(name, 3)
    target = torch.randint(3, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    better = 4 * (target == torch.arange(3)[:, None, None]).float()
    assert loss(better, target) < loss(torch.zeros_like(better), target)
    logits = torch.zeros_like(better, requires_grad=True)
    loss(logits, torch.zeros_like(target)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_classes_are_moved_with_their_image() -> None:
    numbers = torch.zeros(8, 1, 64, 64, dtype=torch.uint8)
    numbers[:, :, 10:30, 8:40] = 1
    numbers[:, :, 30:52, 20:56] = 2
    levels = torch.tensor([30, 120, 220], dtype=torch.uint8)[numbers.long()].expand(-1, 3, -1, -1)
    draws = torch.rand(8, DRAWS, generator=torch.Generator().manual_seed(0))
    geometry = {"contrast": 0.0, "brightness": 0.0, "saturation": 0.0, "tint": 0.0, "gamma": 0.0}
    moving = STRONG.__class__(**{**vars(STRONG), **geometry, "blurred": 0.0, "noisy": 0.0})
    images, masks = augment(levels, numbers, draws, moving, classes=3)
    nearest = (images[:, :1] * 255 - torch.tensor([30.0, 120.0, 220.0])[:, None, None]).abs().argmin(1, keepdim=True)
    assert (nearest == masks).float().mean() > 0.97
    assert masks.unique().tolist() == [0, 1, 2]
    # Two classes are moved alike, counted or thresholded.
    two = numbers.clamp(max=1)
    torch.testing.assert_close(
        augment(levels, two, draws, moving, classes=2)[1], augment(levels, two, draws, moving, classes=3)[1]
    )


def test_grey_batches_are_augmented() -> None:
    images = torch.randint(256, (4, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(4, DRAWS, generator=torch.Generator().manual_seed(1))
    changed, _ = augment(images, torch.zeros(4, 1, 32, 32, dtype=torch.uint8), draws, STRONG)
    assert changed.shape == images.shape
    assert changed.std() > 0


def test_counts_and_means_of_classes() -> None:
    truth = torch.tensor([[[0, 1, 1, 2]], [[0, 0, 0, 0]], [[0, 1, 0, 0]]])
    prediction = torch.tensor([[[0, 1, 2, 2]], [[0, 0, 0, 0]], [[0, 1, 2, 0]]])
    counts = class_counts(prediction, truth, 2)
    assert counts.tolist() == [
        [[1, 0, 2, 1], [1, 1, 2, 0]],
        [[0, 0, 4, 0], [0, 0, 4, 0]],
        [[1, 0, 3, 0], [0, 1, 3, 0]],
    ]
    # A class that is neither there nor predicted says nothing; an image without any is right.
    assert mean_over_classes(counts)["dice"].tolist() == pytest.approx([2 / 3, 1, 1 / 2])
    single = counts[:, :1]
    torch.testing.assert_close(mean_over_classes(single)["dice"], scores(single)["dice"][:, 0])
    # All of class 1 scores (2/3 + 0) / 2, 0 and 2/5; all background 0, 1 and 0.
    assert best_constant_dice(counts) == pytest.approx(max((1 / 3 + 0 + 2 / 5) / 3, 1 / 3))


def test_classes_that_occur_nowhere_have_no_score(shapes: Path) -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([[[1.0]], [[0.0]], [[0.0]]]))

        def forward(self, images: Tensor) -> Tensor:
            return self.bias.expand(len(images), 3, *images.shape[2:])

    pairs = [pair for pair in find_pairs(shapes, FORM) if int(pair.name) % 4 in (0, 3)]  # squares alone, and nothing
    evaluation = evaluate_classes(Nothing(), pairs, 32)
    assert evaluation.classes["disk"].statistics["dice"].images == 0
    assert np.isnan(evaluation.classes["disk"].dataset_scores["dice"])
    assert evaluation.dataset_scores["dice"] == 0
    assert evaluation.image_scores["dice"].tolist() == [0.0, 1.0] * 4
    assert evaluation.best_constant_dice == pytest.approx(0.5)
