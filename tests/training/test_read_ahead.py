"""Reading while something else happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fastresunet.training.read_ahead import batches, read_ahead


class Reader:
    """Squares numbers, and remembers which; number 5 cannot be read."""

    def __init__(self) -> None:
        self.read = {number: threading.Event() for number in range(20)}

    def __call__(self, number: int) -> int:
        self.read[number].set()
        if number == 5:
            raise OSError("five")
        return number**2


def test_results_come_in_order() -> None:
    assert list(read_ahead(range(6, 16), Reader(), ahead=3)) == [number**2 for number in range(6, 16)]
    assert list(read_ahead([], Reader(), ahead=3)) == []


def test_the_next_ones_are_read_meanwhile_but_no_more() -> None:
    reader = Reader()
    results = read_ahead(range(20), reader, ahead=3)
    assert next(results) == 0
    assert all(reader.read[number].wait(timeout=10) for number in (1, 2, 3))
    results.close()  # type: ignore[attr-defined]
    assert not any(reader.read[number].is_set() for number in range(4, 20))


def test_a_failure_comes_when_its_turn_comes() -> None:
    results = read_ahead(range(20), Reader(), ahead=8)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(OSError, match="five"):
        next(results)


def test_what_came_before_a_failure_comes_out_as_a_short_batch() -> None:
    found = batches(read_ahead(range(20), Reader(), ahead=8), 3)
    assert next(found) == [0, 1, 4]
    assert next(found) == [9, 16]
    with pytest.raises(OSError, match="five"):
        next(found)


@pytest.mark.parametrize(("count", "lengths"), [(0, []), (2, [2]), (3, [3]), (7, [3, 3, 1])])
def test_batches(count: int, lengths: list[int]) -> None:
    found: Iterator[list[int]] = batches(range(count), 3)
    collected = list(found)
    assert [len(batch) for batch in collected] == lengths
    assert [number for batch in collected for number in batch] == list(range(count))
