"""Where tensors stand among the arguments or results of an operation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from torch import Tensor


class TensorPlaces:
    """Where the tensors of a call stand in its arguments or results; the tensors themselves are not kept.

    Args:
        values: arguments or results: tensors, lists of tensors, ``None`` for a tensor that is not there, and others.
    """

    # What an argument is that is no list of tensors: those have their length.
    _TENSOR, _OTHER = -1, -2

    def __init__(self, values: Sequence[Any]) -> None:
        self._lengths = [self._length(value) for value in values]

    def _length(self, value: Any) -> int:
        if value is None or isinstance(value, Tensor):
            return self._TENSOR
        return len(value) if isinstance(value, list) and value and isinstance(value[0], Tensor) else self._OTHER

    def flattened(self, values: Sequence[Any]) -> list[Any]:
        """Return what stands for tensors in ``values``; ``None`` for a list stands for each of its tensors."""
        flat: list[Any] = []
        for length, value in zip(self._lengths, values, strict=True):
            if length == self._TENSOR:
                flat.append(value)
            elif length != self._OTHER:
                flat += [None] * length if value is None else value
        return flat

    def grouped(self, flat: Iterable[Any]) -> list[Any]:
        """Undo ``flattened``; ``None`` stands for what is no tensor."""
        values = iter(flat)
        return [
            next(values) if length == self._TENSOR else None if length == self._OTHER else [*islice(values, length)]
            for length in self._lengths
        ]
