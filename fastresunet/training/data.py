"""Find image and mask pairs in a folder, split them, and serve them to the network."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from fastresunet.training.errors import UserError
from fastresunet.training.images import IMAGE_SUFFIXES, read_image, read_mask
from fastresunet.training.progress import track
from fastresunet.training.transforms import Augmentation, resize_image, resize_mask, to_network_input

Split = Literal["train", "val", "all"]
LAYOUT = "Expected: DIR/images and DIR/masks with files of equal names, for example images/7.jpg and masks/7.png."
NAMED_PROBLEMS = 5


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Args:
        name: file name without suffix, the same for both.
        image: image file.
        mask: mask file.
    """

    name: str
    image: Path
    mask: Path

    def read(self) -> tuple[Tensor, Tensor]:
        """Read both files.

        Returns:
            Image, uint8 tensor (3, H, W), and mask, bool tensor (H, W).

        Raises:
            UserError: a file cannot be read, or they differ in size.
        """
        image, mask = read_image(self.image), read_mask(self.mask)
        if image.shape[1:] != mask.shape:
            raise UserError(
                f"mask {self.mask} is {mask.shape[1]}x{mask.shape[0]} pixels (width x height) but its image "
                f"{self.image} is {image.shape[2]}x{image.shape[1]}. Both must have the same size: "
                "replace the wrong file or remove the pair."
            )
        return image, mask


def list_images(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by their name without suffix, sorted.

    Args:
        folder: folder to list; sub-folders are not entered.

    Raises:
        UserError: the folder is missing or holds no image, or two files share a name.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. {LAYOUT}")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise UserError(
                f"{images[path.stem]} and {path} share the name {path.stem!r}; remove or rename one of them."
            )
        images[path.stem] = path
    if not images:
        raise UserError(f"no image in {folder}; looked for files that end in {', '.join(IMAGE_SUFFIXES)}.")
    return images


def find_pairs(data: Path) -> list[Pair]:
    """List the pairs of a data folder, sorted by name.

    Args:
        data: folder with the sub-folders ``images`` and ``masks``.

    Raises:
        UserError: a folder is missing or empty, or a file has no partner.
    """
    images, masks = list_images(data / "images"), list_images(data / "masks")
    for files, partners, kind, folder in ((masks, images, "image", "images"), (images, masks, "mask", "masks")):
        alone = [path for name, path in files.items() if name not in partners]
        if alone:
            others = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise UserError(
                f"{alone[0]}{others} has no {kind} of the same name in {data / folder}. "
                f"Add the missing {kind} or remove the file."
            )
    return [Pair(name, path, masks[name]) for name, path in images.items()]


def split_pairs(data: Path, seed: int = 0, val_fraction: float = 0.15) -> tuple[list[Pair], list[Pair]]:
    """Split the pairs of a data folder into training and validation.

    ``train.txt`` and ``val.txt`` in the folder, one name a line, decide where they exist. Otherwise the sorted names
    are shuffled with ``seed``, so every run on the same files finds the same split.

    Args:
        data: folder with the sub-folders ``images`` and ``masks``.
        seed: seed of the shuffle.
        val_fraction: share of the validation pairs, at least one pair.

    Returns:
        Training pairs and validation pairs.

    Raises:
        UserError: see ``find_pairs``; or a list is missing, empty, no text, overlaps the other, or names a pair that is
            unknown or named before.
    """
    pairs = {pair.name: pair for pair in find_pairs(data)}
    lists = data / "train.txt", data / "val.txt"
    if not any(path.exists() for path in lists):
        if len(pairs) < 2:
            raise UserError(
                f"{data} holds a single pair, which cannot be split into training and validation. "
                "Add pairs; to score this one, evaluate with --split all."
            )
        names = sorted(pairs)
        random.Random(seed).shuffle(names)
        val_count = max(1, round(len(names) * val_fraction))
        return [pairs[name] for name in sorted(names[val_count:])], [pairs[name] for name in sorted(names[:val_count])]
    train, val = (_read_list(path, pairs) for path in lists)
    shared = sorted({pair.name for pair in train} & {pair.name for pair in val})
    if shared:
        raise UserError(f"{shared[0]!r} is listed in both {lists[0]} and {lists[1]}; keep it in one of them.")
    return train, val


def select_pairs(data: Path, split: Split) -> list[Pair]:
    """Return the pairs of one split, or all.

    Args:
        data: folder with the sub-folders ``images`` and ``masks``.
        split: ``"train"``, ``"val"`` or ``"all"``.

    Raises:
        UserError: see ``split_pairs``.
    """
    if split == "all":
        return find_pairs(data)
    train, val = split_pairs(data)
    return train if split == "train" else val


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Read every file once, so that a wrong one is found before hours of training.

    Args:
        pairs: pairs to read.

    Raises:
        UserError: a file cannot be read, a mask is unclear or differs in size from its image, or all masks are empty.
            The message names the first of the wrong files and counts the others.
    """

    def foreground_or_problem(pair: Pair) -> bool | UserError:
        try:
            return bool(pair.read()[1].any())
        except UserError as error:
            return error

    with ThreadPoolExecutor() as executor:
        results = [*track(executor.map(foreground_or_problem, pairs), "Checking images", len(pairs))]
    problems = [str(result) for result in results if isinstance(result, UserError)]
    if problems:
        others = len(problems) - NAMED_PROBLEMS
        more = [f"and {others} more of the {len(pairs)} pairs are like this."] if others > 0 else []
        raise UserError("\n".join(problems[:NAMED_PROBLEMS] + more))
    if not any(results):
        raise UserError(
            f"all {len(pairs)} masks are empty (the first: {pairs[0].mask}). "
            "Save masks as 8-bit grey, 0 for background and 255 for polyp."
        )


class SampleKey(NamedTuple):
    """What the training sampler asks of the dataset: which pair, and the seed of its augmentation."""

    position: int
    seed: int


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs at the size of the network.

    Args:
        pairs: image and mask files.
        size: pixels of height and width.
        augment: change each image at random, by the seed in its key.
    """

    def __init__(self, pairs: Sequence[Pair], size: int, augment: bool = False) -> None:
        self.pairs, self.size = pairs, size
        self.augmentation = Augmentation() if augment else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Tensor]:
        """Return an image, float32 (3, size, size) in 0..1, and its mask, float32 (1, size, size) of 0 and 1."""
        image, mask = self.pairs[key.position].read()
        image, mask = resize_image(image, self.size), resize_mask(mask, self.size)
        if self.augmentation is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(key.seed)
                image, mask = self.augmentation(image, mask)
        return to_network_input(image), mask[None].float()


class SeededSampler(DistributedSampler[SampleKey]):
    """Order and augmentation that depend on nothing but the seed and the epoch.

    An interrupted training therefore continues with exactly the samples it would have seen.

    Args:
        dataset: dataset to sample.
        seed: seed of the shuffle and of the augmentation.
        shuffle: draw a new order for every epoch.
        processes: number of training processes; each gets its share of the samples.
        rank: index of this process.
    """

    def __init__(
        self, dataset: SegmentationDataset, seed: int, shuffle: bool, processes: int = 1, rank: int = 0
    ) -> None:
        super().__init__(dataset, num_replicas=processes, rank=rank, shuffle=shuffle, seed=seed)
        self.resumed_epoch, self.resumed_position = 0, 0

    def resume(self, epoch: int, position: int) -> None:
        """Leave out the first ``position`` samples of ``epoch``, which an interrupted training has seen."""
        self.resumed_epoch, self.resumed_position = epoch, position
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[SampleKey]:
        """Yield the keys of the current epoch."""
        # The base class is typed by what it yields, but it yields plain positions.
        positions = cast(Iterator[int], super().__iter__())
        first = self.resumed_position if self.epoch == self.resumed_epoch else 0
        for position in itertools.islice(positions, first, None):
            seed = np.random.SeedSequence((self.seed, self.epoch, position)).generate_state(1)[0]
            yield SampleKey(position, int(seed))


def _read_list(path: Path, pairs: dict[str, Pair]) -> list[Pair]:
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
