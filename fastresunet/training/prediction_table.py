"""``predictions.csv``: a row an image, or an image and class, on disk while the prediction goes on."""

from __future__ import annotations

import csv
import io
import itertools
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType

from torch import Tensor

from fastresunet.training.data_format import KVASIR_SEG, DataFormat
from fastresunet.training.errors import UserError
from fastresunet.training.files import write_csv
from fastresunet.training.measurements import measure, measured_columns

# The file is written anew when it has grown by this share: not for every row, which thousands of images would feel.
GROWTH = 0.1


class PredictionTable:
    """Rows by the name of their image; as a context it has written them all at its end, an interrupted one too.

    Args:
        path: CSV file to write.
        form: of the masks.
        keep: begin with the rows that are in the file, if there is one.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path, form: DataFormat = KVASIR_SEG, keep: bool = False) -> None:
        self.path, self.form = path, form
        self.columns = ("image", "height", "width", *measured_columns(form))
        self.rows = _read(path, self.columns) if keep and path.exists() else {}
        self._unwritten = 0

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def add(self, name: str, mask: Tensor, probabilities: Tensor | None) -> None:
        """Add an image, or replace its rows.

        Args:
            name: of the image.
            mask: class of each pixel, uint8 tensor (H, W).
            probabilities: float tensor (K, H, W); None if not known.

        Raises:
            UserError: the file cannot be written.
        """
        size = [*map(str, mask.shape)]
        self.rows[name] = [[name, *size, *row] for row in measure(mask, probabilities, self.form)]
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
        write_csv(self.path, self.columns, itertools.chain.from_iterable(self.rows.values()))
        self._unwritten = 0


def _read(path: Path, columns: tuple[str, ...]) -> dict[str, list[list[str]]]:
    try:
        header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}. Remove it, or choose another --out.") from error
    if tuple(header) != columns or any(len(row) != len(columns) for row in rows):
        raise UserError(
            f"{path} is no table of predictions: expected the columns {', '.join(columns)}. "
            "Remove it, or choose another --out."
        )
    by_name: dict[str, list[list[str]]] = {}
    for row in rows:
        by_name.setdefault(row[0], []).append(row)
    return by_name
