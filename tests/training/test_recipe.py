"""Recipes: from options, from files, in the folder and the checkpoints of a training."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from fastresunet.cli import build_parser, main
from fastresunet.training import split
from fastresunet.training.configure import configure
from fastresunet.training.errors import UserError
from fastresunet.training.fit import TrainingResult
from fastresunet.training.lightning_module import make_optimizer, rate_curve
from fastresunet.training.recipe import Recipe, resolve_precision
from fastresunet.training.run import names_in, read_run
from fastresunet.training.split import Names, split_pairs

from .conftest import FILTERS, SMALL, train_small


def test_a_training_records_what_shaped_it(trained: TrainingResult, shared_data: Path) -> None:
    folder = trained.table.parent
    run = read_run(folder / "run.yaml")
    assert run.recipe == replace(SMALL, epochs=2, precision="32")
    expected = [tuple(pair.name for pair in part) for part in split_pairs(shared_data, SMALL.val_fraction)]
    assert [run.names.train, run.names.val] == expected
    assert run.made_with["data"] == str(shared_data)
    assert run.made_with["device"] == "cpu"
    assert torch.__version__.startswith(run.made_with["versions"]["torch"])
    for checkpoint in (trained.best_checkpoint, trained.last_checkpoint):
        assert names_in(checkpoint) == run.names


def test_a_recipe_file_configures_a_training(trained: TrainingResult) -> None:
    file = trained.table.parent / "run.yaml"
    recipe, names = configure({"lr": 0.5, "data": "d"}, config=file)
    assert recipe == replace(read_run(file).recipe, lr=0.5)
    assert names == read_run(file).names


def test_a_resumed_training_is_configured_by_its_own_recipe(trained: TrainingResult) -> None:
    recipe, names = configure({"epochs": 9}, resumed=trained.table.parent)
    assert recipe == replace(SMALL, epochs=9, precision="32")
    assert names is None


def test_a_recipe_alone_splits_anew(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("recipe: {epochs: 3, filters: [8, 8, 8, 8, 8]}")
    assert configure({}, tmp_path / "recipe.yaml") == (Recipe(epochs=3, filters=(8, 8, 8, 8, 8)), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot read .*recipe.yaml: while parsing"),
        ("epochs: 3", "holds no recipe"),
        ("recipe: {epoch: 3}", "a recipe has no 'epoch'; it has accumulate, "),
        ("recipe: {epochs: many}", "recipe.yaml: epochs must be a whole number, at least 1, got 'many'"),
        ("recipe: {epochs: true}", "recipe.yaml: epochs must be a whole number"),
        ("recipe: {filters: 8}", "recipe.yaml: "),
        ("recipe: {checkpoint: 8}", "checkpoint must be a file or a name, got 8"),
        ("{recipe: {}, train: [1], val: [a]}", "expected lists of names, as text"),
        ("{recipe: {}, train: [a]}", "has names under one of 'train' and 'val'"),
        ("recipe: !!python/object/apply:os.getcwd []", "cannot read .*could not determine a constructor"),
    ],
)
def test_wrong_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_run(tmp_path / "recipe.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*run\.yaml"):
        read_run(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "optimizer must be one of adamw, sgd, got 'adam'"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"warm_up": 1.0}, "warm_up must be at least 0 and below 1"),
        ({"schedule": "linear"}, "schedule must be one of cosine, constant"),
        ({"clip_norm": float("inf")}, "clip_norm must be at least 0 and finite"),
        ({"loss": "mse"}, "loss must be one of bce-dice, dice, tversky, focal"),
        ({"augmentation": "wild"}, "augmentation must be one of none, light, strong"),
        ({"average": 1.0}, "average must be at least 0 and below 1"),
        ({"monitor": "dice"}, "monitor must be one of val_dice, val_iou, val_loss"),
        ({"val_fraction": 1.0}, "val_fraction must be above 0 and below 1"),
        ({"accumulate": 0}, "accumulate must be a whole number, at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe(**changes).check()


def test_every_field_is_an_option_whose_help_states_its_default() -> None:
    command = ["train", "--data", "d", "--out", "o"]
    parser = build_parser().parse_args(command).parser
    text = " ".join(parser.format_help().rpartition("recipe:")[2].partition("examples:")[0].split())
    for field in fields(Recipe):
        option = f"--{field.name.replace('_', '-')} "
        assert option in text
        if field.default is None or field.default in ((), ""):
            continue
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        description = text.partition(option)[2].partition("(default: ")[2]
        assert description.startswith(f"{default})"), option
    # What is not given must not override a file.
    assert not {field.name for field in fields(Recipe)} & vars(build_parser().parse_args(command)).keys()


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    rates = [rate_curve(Recipe(warm_up=0.1), 100)(step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert rates[10] == 1
    assert all(x > y for x, y in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0
    constant = rate_curve(Recipe(warm_up=0.0, schedule="constant"), 100)
    assert {constant(step) for step in range(100)} == {1.0}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_is_for_kernels(name: Any) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    optimizer = make_optimizer(network, Recipe(optimizer=name, lr=0.25, weight_decay=0.5), fused=False)
    decays = {id(x): group["weight_decay"] for group in optimizer.param_groups for x in group["params"]}
    assert [decays[id(x)] for x in network.parameters()] == [0.5, 0, 0, 0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_automatic_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert resolve_precision("auto", "cuda") == "bf16"
    assert resolve_precision("auto", "cpu") == "32"
    assert resolve_precision("16", "cuda") == "16"


def test_training_starts_from_given_weights(trained: TrainingResult, shared_data: Path, tmp_path: Path) -> None:
    changes = {"checkpoint": str(trained.best_checkpoint), "filters": None, "lr": 1e-12, "epochs": 1}
    result = train_small(shared_data, tmp_path, average=0.0, **changes)
    for name, value in torch.load(trained.best_checkpoint, weights_only=True)["state_dict"].items():
        if value.is_floating_point() and "running" not in name:
            torch.testing.assert_close(
                torch.load(result.last_checkpoint, weights_only=True)["state_dict"][name], value, rtol=1e-4, atol=1e-6
            )
    recorded = yaml.safe_load((tmp_path / "run.yaml").read_text())["recipe"]
    assert recorded["filters"] == [*(SMALL.filters or ())]
    assert recorded["checkpoint"] == str(trained.best_checkpoint)


def test_weights_of_other_channels_are_refused(trained: TrainingResult, shared_data: Path, tmp_path: Path) -> None:
    changes = {"checkpoint": str(trained.best_checkpoint), "filters": (8, 8, 8, 8, 8)}
    with pytest.raises(UserError, match=r"has filters 8 8 16 16 16, not 8 8 8 8 8; leave out --filters"):
        train_small(shared_data, tmp_path, **changes)


def test_the_official_split_trains(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    official = Names(("0000", "0003", "0007"), ("0001",))
    monkeypatch.setattr(split, "named_split", lambda name: official)
    command = ["train", "--data", str(shared_data), "--out", str(tmp_path), "--device", "cpu", "--lists", "kvasir-seg"]
    small = ["--size", "32", "--epochs", "1", "--batch-size", "4", "--filters", *map(str, FILTERS)]
    assert main([*command, *small]) == 0
    assert read_run(tmp_path / "run.yaml").names == official
    assert main([*command, "--resume", "--epochs", "2"]) == 0
    monkeypatch.setattr(split, "named_split", lambda name: Names(("0000", "0003"), ("0001",)))
    assert main([*command, "--resume", "--epochs", "3"]) == 1
    assert "was trained with another split than the one given" in capsys.readouterr().err
    assert main([*command, *small, "--folds", "2"]) == 1
    assert "--folds splits the images by itself; leave out --lists" in capsys.readouterr().err
