"""Images and masks at training size, each decoded once: kept in memory, or in a file for sets that do not fit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastresunet.training.console import say
from fastresunet.training.data import Pair
from fastresunet.training.errors import UserError
from fastresunet.training.files import check_writable
from fastresunet.training.progress import track
from fastresunet.training.transforms import resize_image, resize_mask

MOST_BYTES_IN_MEMORY = 4 << 30
NAMED_PROBLEMS = 5
# States of a pair; in a file they say which of its rows are written.
_UNREAD, _EMPTY, _WITH_FOREGROUND, _DAMAGED = 0, 1, 2, 3


class ImageStore:
    """Pairs at the size of the network.

    A pair is decoded and resized when it is first asked for, by any thread. What fits neither in memory nor into a
    cache is decoded every time.

    Args:
        pairs: image and mask files, at least one, all of one format.
        size: height and width in pixels.
        cache: folder for a file that holds the pairs at this size, for this and for later trainings; None keeps them in
            memory if they take at most ``MOST_BYTES_IN_MEMORY`` and half of it.
        skip_damaged: leave out pairs that cannot be used, and say so, instead of stopping.

    Raises:
        UserError: the cache cannot be written.
    """

    def __init__(self, pairs: Sequence[Pair], size: int, cache: Path | None = None, skip_damaged: bool = False) -> None:
        self.pairs, self.size, self._skip_damaged = pairs, size, skip_damaged
        self._planes = pairs[0].form.channels + 1  # the last one is the mask
        self._positions = {pair.name: position for position, pair in enumerate(pairs)}
        row = self._planes * size * size
        self.fits_memory = len(pairs) * row <= min(MOST_BYTES_IN_MEMORY, _memory() // 2)
        self._rows: NDArray[np.uint8] | None = None
        self._states: NDArray[np.uint8] = np.zeros(len(pairs), np.uint8)
        if cache is not None:
            content = _map_file(cache, pairs, size, len(pairs) * (1 + row))
            self._states, self._rows = content[: len(pairs)], content[len(pairs) :].reshape(len(pairs), -1)
        elif self.fits_memory:
            # The system hands out this memory as it is filled.
            self._rows = np.empty((len(pairs), row), np.uint8)

    @property
    def keeps(self) -> bool:
        """Whether pairs are decoded once only."""
        return self._rows is not None

    def fill(self) -> None:
        """Read all pairs now, with progress, so that a wrong file is found before hours of training.

        Raises:
            UserError: a pair cannot be used and is not to be left out, none can, or all masks are empty. The message
                names the first of the wrong files and counts the others.
        """

        def problem_of(position: int) -> UserError | None:
            try:
                self._row(position)
            except UserError as error:
                return error
            return None

        with ThreadPoolExecutor() as executor:
            results = [*track(executor.map(problem_of, range(len(self.pairs))), "Reading images", len(self.pairs))]
        problems = [str(error) for error in results if error is not None]
        if problems and not self._skip_damaged:
            others = len(problems) - NAMED_PROBLEMS
            more = [f"and {others} more of the {len(self.pairs)} pairs are like this."] if others > 0 else []
            raise UserError("\n".join(problems[:NAMED_PROBLEMS] + more))
        self.check_foreground()
        self._mention_missing_classes()

    def _mention_missing_classes(self) -> None:
        classes = self.pairs[0].form.classes
        if not classes or self._rows is None:
            return
        usable = self._rows[self._states != _DAMAGED, -self.size * self.size :]
        missing = [str(each) for number, each in enumerate(classes) if not (usable == number).any()]
        if missing:
            say(f"No mask of {self.size}x{self.size} pixels shows: {', '.join(missing)}")

    def check_foreground(self) -> None:
        """Look whether the masks show anything, once all are read.

        Raises:
            UserError: no pair could be used, or all masks are empty.
        """
        if (self._states == _UNREAD).any():
            return
        usable = [pair for pair, state in zip(self.pairs, self._states, strict=True) if state != _DAMAGED]
        if not usable:
            raise UserError(f"none of the {len(self.pairs)} pairs can be used; the first is {self.pairs[0].image}.")
        if not (self._states == _WITH_FOREGROUND).any():
            raise UserError(
                f"all {len(usable)} masks are empty (the first: {usable[0].mask}). {usable[0].form.expected}"
            )

    def usable(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Return those of some pairs that have not turned out to be damaged."""
        return [pair for pair in pairs if self._states[self._positions[pair.name]] != _DAMAGED]

    def read(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Return a batch.

        Args:
            pairs: some of the store's. One that is left out as damaged is replaced by another of the batch, so that
                batches keep their size.

        Returns:
            Images, uint8 (N, channels, size, size), and classes of their pixels, uint8 (N, 1, size, size).

        Raises:
            UserError: a pair cannot be used and is not to be left out, or none of them can.
        """
        rows: list[NDArray[np.uint8] | None] = []
        for pair in pairs:
            try:
                rows.append(self._row(self._positions[pair.name]))
            except UserError:
                if not self._skip_damaged:
                    raise
                rows.append(None)
        good = [row for row in rows if row is not None]
        if not good:
            raise UserError(f"none of {len(pairs)} pairs of a batch can be used; the first is {pairs[0].image}.")
        chosen = [row if row is not None else good[i % len(good)] for i, row in enumerate(rows)]
        planes = torch.from_numpy(np.stack(chosen)).view(-1, self._planes, self.size, self.size)
        return planes[:, :-1], planes[:, -1:]

    def _row(self, position: int) -> NDArray[np.uint8]:
        """Return the planes of a pair, flat, decoding it if need be."""
        if self._rows is not None and self._states[position] in (_EMPTY, _WITH_FOREGROUND):
            return self._rows[position]
        known = self._states[position] == _DAMAGED
        try:
            image, mask = self.pairs[position].read()
        except UserError as error:
            self._states[position] = _DAMAGED
            if self._skip_damaged and not known:
                say(f"Left out: {error}")
            raise
        mask = resize_mask(mask, self.size)
        row = torch.cat([resize_image(image, self.size), mask[None]]).flatten().numpy()
        if self._rows is not None:
            self._rows[position] = row
        # After its row, so that another thread, or a later training, finds whole rows only.
        self._states[position] = _WITH_FOREGROUND if mask.any() else _EMPTY
        return row


def _map_file(folder: Path, pairs: Sequence[Pair], size: int, length: int) -> NDArray[np.uint8]:
    """Return a file's content as an array that writes through; a file of zeros if there was none."""
    check_writable(folder)
    digest = hashlib.sha256(f"{size} {pairs[0].form}".encode())
    for pair in pairs:
        # A file that has changed is another file.
        for path in (pair.image, pair.mask):
            about = path.stat()
            digest.update(f"{path.name} {about.st_size} {about.st_mtime_ns}\n".encode())
    path = folder / f"images-{size}-{digest.hexdigest()[:16]}.cache"
    try:
        if not path.exists() or path.stat().st_size != length:
            with path.open("wb") as file:
                # Takes space on disk as it is filled.
                file.truncate(length)
        return np.memmap(path, np.uint8, "r+")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another --cache.") from error


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
