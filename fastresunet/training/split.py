"""Which images train and which validate: by lists, by what a training has recorded, or by the names themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from fastresunet.training.data import Pair, find_pairs
from fastresunet.training.data_format import KVASIR_SEG, DataFormat
from fastresunet.training.errors import UserError

Split = Literal["train", "val", "all"]
VAL_FRACTION = 0.15
NAMED = 3
SPLITS = Path(__file__).parents[1] / "splits"


class Names(NamedTuple):
    """The split of a training.

    Attributes:
        train: names of the training images, without suffix.
        val: names of the validation images.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]


class Selection(NamedTuple):
    """Pairs to evaluate.

    Attributes:
        pairs: image and mask files.
        reason: why these, to be printed.
    """

    pairs: list[Pair]
    reason: str


def split_pairs(
    data: Path, val_fraction: float = VAL_FRACTION, form: DataFormat = KVASIR_SEG
) -> tuple[list[Pair], list[Pair]]:
    """Split the pairs of a data folder into training and validation.

    ``train.txt`` and ``val.txt`` in the folder, one name a line, decide where they exist. Otherwise every name decides
    for itself, by its SHA-256, so that adding or removing images never moves another one.

    Args:
        data: folder with the sub-folders ``images`` and ``masks``.
        val_fraction: share of the validation pairs, above 0 and below 1. About so many: names are as good as dice.
        form: of the files.

    Returns:
        Training pairs and validation pairs, at least one of each.

    Raises:
        UserError: see ``find_pairs``; or a list is missing, empty, no text, overlaps the other, or names a pair that is
            unknown or named before.
    """
    pairs = {pair.name: pair for pair in find_pairs(data, form)}
    lists = data / "train.txt", data / "val.txt"
    if any(path.exists() for path in lists):
        train, val = (_read_list(path, pairs) for path in lists)
        shared = sorted({pair.name for pair in train} & {pair.name for pair in val})
        if shared:
            raise UserError(f"{shared[0]!r} is listed in both {lists[0]} and {lists[1]}; keep it in one of them.")
        return train, val
    if len(pairs) < 2:
        raise UserError(
            f"{data} holds a single pair, which cannot be split into training and validation. "
            "Add pairs; to score this one, evaluate with --split all."
        )
    places = {name: _place(name) for name in pairs}
    first, *_, last = sorted(places, key=lambda name: places[name])
    validates = {name: name == first or (place < val_fraction and name != last) for name, place in places.items()}
    return [x for x in pairs.values() if not validates[x.name]], [x for x in pairs.values() if validates[x.name]]


def named_split(name: str) -> Names:
    """Return an official split that comes with the package.

    Args:
        name: ``"kvasir-seg"``, the 880 training and 120 validation images that Kvasir-SEG's authors name.

    Raises:
        UserError: there is none of that name.
    """
    known = sorted(path.name for path in SPLITS.iterdir())
    if name not in known:
        raise UserError(f"there is no official split {name!r}; there are: {', '.join(known)}.")
    return Names(*(tuple((SPLITS / name / f"{part}.txt").read_text().split()) for part in Names._fields))


def split_folds(data: Path, folds: int, form: DataFormat = KVASIR_SEG) -> list[Names]:
    """Split the pairs of a data folder for a cross-validation; every pair validates once.

    Args:
        data: folder with the sub-folders ``images`` and ``masks``.
        folds: number of parts, at least 2. Names decide by their SHA-256 which one they are in, so that the parts
            differ somewhat in size, and adding an image moves no other.
        form: of the files.

    Raises:
        UserError: see ``find_pairs``; or there are too few pairs for so many parts.
    """
    names = [pair.name for pair in find_pairs(data, form)]
    fold_of = {name: int(_place(name) * folds) for name in names}
    split = []
    for fold in range(folds):
        train, val = (tuple(name for name in names if (fold_of[name] == fold) is held) for held in (False, True))
        split.append(Names(train, val))
    if not all(part.train and part.val for part in split):
        raise UserError(f"{data} holds {len(names)} pairs, too few for {folds} folds; choose a smaller --folds.")
    return split


def recorded_pairs(
    data: Path, names: Names, source: str, form: DataFormat = KVASIR_SEG
) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of a recorded split; what else the folder holds is left out.

    Args:
        data: folder with the sub-folders ``images`` and ``masks``.
        names: the recorded split.
        source: what holds it, for errors.
        form: of the files.

    Raises:
        UserError: see ``find_pairs``; or a pair is missing.
    """
    pairs = {pair.name: pair for pair in find_pairs(data, form)}
    missing = [name for name in (*names.train, *names.val) if name not in pairs]
    if missing:
        raise UserError(
            f"{source} names images that are not in {data}: {_listed(missing)}. Give the folder it was made for."
        )
    return [pairs[name] for name in names.train], [pairs[name] for name in names.val]


def select_pairs(
    data: Path,
    split: Split | None,
    recorded: Names | None = None,
    form: DataFormat = KVASIR_SEG,
    official: str | None = None,
) -> Selection:
    """Choose the pairs to evaluate.

    Args:
        data: folder with the sub-folders ``images`` and ``masks``.
        split: ``"train"``, ``"val"`` or ``"all"``. None takes what tells most: in the folder of the training its
            validation images; in another one all images; where it is not known what the network was trained on, those
            of ``val.txt``, or all without such a list.
        recorded: the split of the network's training, where it is known.
        form: of the files.
        official: name of a split that comes with the package, which then decides, see ``named_split``.

    Raises:
        UserError: see ``split_pairs``, ``named_split`` and ``recorded_pairs``.
    """
    pairs = find_pairs(data, form)
    if official is not None:
        train, val = recorded_pairs(data, named_split(official), f"the official split {official}", form)
        if split == "all":
            return Selection([*train, *val], f"all images of the official split {official}")
        part = train if split == "train" else val
        seen = 0 if recorded is None or split == "train" else len({pair.name for pair in part} & {*recorded.train})
        warning = f"; the network was trained on {seen} of them" if seen else ""
        return Selection(part, f"{_PARTS[split or 'val']} of the official split {official}{warning}")
    if split == "all":
        return Selection(pairs, "all images of the folder")
    by_name = {pair.name: pair for pair in pairs}
    if recorded is not None and {*recorded.train, *recorded.val} <= by_name.keys():
        chosen = recorded.train if split == "train" else recorded.val
        new = len(pairs) - len(recorded.train) - len(recorded.val)
        others = f"; {new} have other names: --split all scores everything" if new else ""
        return Selection(
            [by_name[name] for name in chosen], f"{_PARTS[split or 'val']} of its training, by their names{others}"
        )
    if split is None:
        if recorded is not None:
            return Selection(pairs, "all images: the network was trained on other ones")
        if not (data / "val.txt").exists():
            return Selection(pairs, "all images: the checkpoint does not say what it was trained on")
    train, val = split_pairs(data, form=form)
    listed = f" by {'train' if split == 'train' else 'val'}.txt" if (data / "val.txt").exists() else ""
    return Selection(train if split == "train" else val, f"{_PARTS[split or 'val']}{listed}")


_PARTS: Mapping[str, str] = {"train": "the training images", "val": "the validation images"}


def _place(name: str) -> float:
    """Return where between 0 and 1 a name lies."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more


def _read_list(path: Path, pairs: Mapping[str, Pair]) -> list[Pair]:
    if not path.is_file():
        raise UserError(f"{path} is missing: a data folder has both train.txt and val.txt, or neither.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error.reason} in byte {error.start}); save it as UTF-8.") from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path} lists no name; write one file name without suffix a line, or remove both lists.")
    # Lists of some data sets give file names with their suffix.
    by_name = {name: pair for pair in pairs.values() for name in (pair.name, pair.image.name, pair.mask.name)}
    selected: dict[str, Pair] = {}
    for name in names:
        if name not in by_name:
            raise UserError(f"{path} lists {name!r}, but there is no such pair in {path.parent}; correct the list.")
        pair = by_name[name]
        if pair.name in selected:
            raise UserError(f"{path} lists {name!r} twice; remove one of the lines.")
        selected[pair.name] = pair
    return [*selected.values()]
