"""``predictions.csv``: a row an image, on disk while the prediction goes on."""

from __future__ import annotations

import csv
import io
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType

from torch import Tensor

from fastresunet.training.errors import UserError
from fastresunet.training.files import write_csv
from fastresunet.training.measurements import MEASUREMENTS, measure

COLUMNS = ("image", "height", "width", *MEASUREMENTS)
# The file is written anew when it has grown by this share: not for every row, which thousands of images would feel.
GROWTH = 0.1


class PredictionTable:
    """Rows by the name of their image; as a context it has written them all at its end, an interrupted one too.

    Args:
        path: CSV file to write.
        keep: begin with the rows that are in the file, if there is one.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path, keep: bool = False) -> None:
        self.path = path
        self.rows = _read(path) if keep and path.exists() else {}
        self._unwritten = 0

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def add(self, name: str, mask: Tensor, probability: Tensor | None) -> None:
        """Add an image, or replace its row.

        Args:
            name: of the image.
            mask: bool tensor (H, W).
            probability: float tensor (H, W); None if not known.

        Raises:
            UserError: the file cannot be written.
        """
        self.rows[name] = [name, *map(str, mask.shape), *measure(mask, probability)]
        self._unwritten += 1
        if self._unwritten > GROWTH * len(self.rows):
            self._write()

    def __enter__(self) -> PredictionTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What went wrong first is what the user should read.
        with nullcontext() if error is None else suppress(UserError):
            if self._unwritten:
                self._write()

    def _write(self) -> None:
        write_csv(self.path, COLUMNS, self.rows.values())
        self._unwritten = 0


def _read(path: Path) -> dict[str, list[str]]:
    try:
        header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}. Remove it, or choose another --out.") from error
    if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise UserError(
            f"{path} is no table of predictions: expected the columns {', '.join(COLUMNS)}. "
            "Remove it, or choose another --out."
        )
    return {row[0]: row for row in rows}
