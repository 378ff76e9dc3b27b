"""Which images train, which validate, and which are evaluated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fastresunet.cli import build_parser
from fastresunet.training import split
from fastresunet.training.data import Pair
from fastresunet.training.errors import UserError
from fastresunet.training.split import (
    SPLITS,
    Names,
    Split,
    named_split,
    recorded_pairs,
    select_pairs,
    split_folds,
    split_pairs,
)


def names(pairs: list[Pair]) -> list[str]:
    return [pair.name for pair in pairs]


def add(data: Path, name: str) -> None:
    for folder in ("images", "masks"):
        shutil.copy(data / folder / "0000.png", data / folder / f"{name}.png")


def test_split_by_names_never_changes(shared_data: Path) -> None:
    train, val = split_pairs(shared_data)
    # An evaluation finds the validation images of an earlier training by these names.
    assert names(val) == ["0004", "0005", "0008", "0010"]
    assert sorted(names(train) + names(val)) == [f"{index:04d}" for index in range(12)]


def test_new_images_move_no_other_one(data: Path) -> None:
    before = [set(names(part)) for part in split_pairs(data, 0.3)]
    for number in range(40):
        add(data, f"new-{number}")
        after = [set(names(part)) for part in split_pairs(data, 0.3)]
        assert before[0] <= after[0]
        assert before[1] <= after[1]
        before = after
    assert len(before[1]) == pytest.approx(0.3 * 46, abs=6)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_both_parts_have_an_image(data: Path, fraction: float) -> None:
    assert sorted(len(part) for part in split_pairs(data, fraction)) == [1, 5]


def test_a_single_pair_cannot_be_split(data: Path) -> None:
    for path in [*data.glob("*/*.png")]:
        if path.stem != "0000":
            path.unlink()
    with pytest.raises(UserError, match=r"a single pair.*--split all"):
        split_pairs(data)


def test_lists_decide_the_split(data: Path) -> None:
    (data / "train.txt").write_text("0003\n0001.png\n\n")
    (data / "val.txt").write_text("0005\n")
    train, val = split_pairs(data)
    assert names(train) == ["0003", "0001"]
    assert names(val) == ["0005"]


def test_every_image_validates_in_one_fold(shared_data: Path) -> None:
    folds = split_folds(shared_data, 3)
    assert sorted(name for fold in folds for name in fold.val) == [f"{index:04d}" for index in range(12)]
    assert all(sorted((*fold.train, *fold.val)) == [f"{index:04d}" for index in range(12)] for fold in folds)


def test_too_many_folds_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match=r"holds 6 pairs, too few for 6 folds"):
        split_folds(data, 6)


def test_a_recorded_split_is_found_again(data: Path) -> None:
    recorded = Names(("0003", "0001"), ("0000",))
    assert [names(part) for part in recorded_pairs(data, recorded, "run.yaml")] == [["0003", "0001"], ["0000"]]
    with pytest.raises(UserError, match=r"run\.yaml names images that are not .*: '7', '8', '9' and 1 more"):
        recorded_pairs(data, Names(("7", "8", "9", "10"), ("0000",)), "run.yaml")


RECORDED = Names(("0000", "0001", "0002"), ("0003", "0004"))


@pytest.mark.parametrize(
    ("split", "recorded", "listed", "chosen", "reason"),
    [
        (None, RECORDED, False, "34", "the validation images of its training, by their names; 1 have other names"),
        ("val", RECORDED, True, "34", "the validation images of its training, by their names"),
        ("train", RECORDED, False, "012", "the training images of its training, by their names"),
        ("all", RECORDED, False, "012345", "all images of the folder"),
        (None, Names(("a",), ("b",)), False, "012345", "all images: the network was trained on other ones"),
        (None, Names(("a",), ("b",)), True, "012345", "all images: the network was trained on other ones"),
        (None, None, True, "5", "the validation images by val.txt"),
        (None, None, False, "012345", "all images: the checkpoint does not say what it was trained on"),
        ("val", None, False, "45", "the validation images"),
        ("train", None, True, "01", "the training images by train.txt"),
    ],
    ids=[
        "in the folder of the training",
        "validation, recorded before listed",
        "training",
        "all",
        "in another folder",
        "in another folder with lists",
        "unknown training, lists",
        "unknown training",
        "validation by name",
        "training by list",
    ],
)
def test_selection_for_evaluation(
    data: Path, split: object, recorded: Names | None, listed: bool, chosen: str, reason: str
) -> None:
    if listed:
        (data / "train.txt").write_text("0000\n0001")
        (data / "val.txt").write_text("0005")
    selection = select_pairs(data, split, recorded)  # type: ignore[arg-type]
    assert names(selection.pairs) == [f"000{digit}" for digit in chosen]
    assert selection.reason.startswith(reason)


def test_official_split_of_kvasir_seg() -> None:
    train, val = named_split("kvasir-seg")
    assert (len(train), len(val), len({*train, *val})) == (880, 120, 1000)
    with pytest.raises(UserError, match=r"no official split 'cvc'; there are: kvasir-seg"):
        named_split("cvc")
    # The choices of the command line are those that come with the package.
    actions = build_parser().parse_args(["train", "--data", "d", "--out", "o"]).parser._actions
    choices = next(action.choices for action in actions if action.dest == "lists")
    assert [*choices] == [path.name for path in SPLITS.iterdir()]


@pytest.mark.parametrize("part", ["train", "val", None])
def test_an_official_split_decides(part: Split | None, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = Names(("0000", "0003"), ("0001", "0004"))
    monkeypatch.setattr(split, "named_split", lambda name: official)
    found, reason = select_pairs(data, part, Names(("0002",), ("0005",)), official="kvasir-seg")
    assert tuple(names(found)) == (official.train if part == "train" else official.val)
    assert reason.endswith("of the official split kvasir-seg")
    whole = select_pairs(data, "all", official="kvasir-seg")
    assert (names(whole.pairs), whole.reason) == (
        ["0000", "0003", "0001", "0004"],
        "all images of the official split kvasir-seg",
    )
    seen = select_pairs(data, "val", Names(("0001", "0002"), ("0005",)), official="kvasir-seg")
    assert seen.reason.endswith("of the official split kvasir-seg; the network was trained on 1 of them")
    monkeypatch.setattr(split, "named_split", lambda name: Names(("0000",), ("other",)))
    with pytest.raises(UserError, match=r"the official split kvasir-seg names images that are not in .*: 'other'"):
        select_pairs(data, part, official="kvasir-seg")
