"""A share goes on after whatever ends its process, and the unit that did it is named."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.gpu_check.events import parse
from benchmarks.gpu_check.processes import Log
from benchmarks.gpu_check.shares import Share, Task
from tests.benchmarks.gpu_check.conftest import environment, task


def finished(given: Task, seconds: float = 60.0) -> Share:
    """Return the share of a task at its end."""
    share = Share(given, environment(), {}, time.monotonic() + seconds)
    while not share.over:
        share.advance()
    return share


def test_all_units_are_done() -> None:
    share = finished(task("a task", "one", "wrong two", "three"))
    assert share.results == {"one": "", "wrong two": "wrong", "three": ""}
    assert share.faults == []


@pytest.mark.parametrize(
    ("unit", "problem"),
    [
        ("crash", "ended with status 3; last line: about to crash"),
        ("segfault", "ended by SIGSEGV"),
        ("device", "AcceleratorError: an illegal memory access was encountered"),
    ],
)
def test_a_unit_that_ends_its_process_is_named_and_the_rest_carried_on(unit: str, problem: str) -> None:
    share = finished(task("a task", "one", unit, "two", "three"))
    assert list(share.results) == ["one", "two", "three"]
    (fault,) = share.faults
    assert fault.startswith(f"{unit}: {problem}")


def test_a_unit_that_hangs_is_ended_and_the_rest_carried_on() -> None:
    share = finished(task("a task", "one", "hang", "two", unit_seconds=1.0))
    assert list(share.results) == ["one", "two"]
    assert share.faults == ["hang: took more than 1 s"]


def test_processes_of_a_share_are_limited() -> None:
    share = finished(task("a task", *(f"crash {n}" for n in range(20)), "never"))
    assert len(share.faults) == 6
    assert share.results == {}


def test_what_cannot_begin_is_said_once() -> None:
    share = finished(Task("a task", ("-c", "raise ImportError('no such library')")))
    assert share.faults == ["a task: ended with status 1; last line: ImportError: no such library"]


def test_a_stopped_share_keeps_what_it_had(tmp_path: Path) -> None:
    share = Share(task("a task", "one", "hang"), environment(), {}, time.monotonic() + 60)
    while not share.results:
        share.advance()
    share.stop()
    assert (share.over, share.stopped, share.results) == (True, True, {"one": ""})


def test_facts_reach_the_process() -> None:
    share = Share(task("a task", "facts"), environment(), {"copy GB/s": 3000.0}, time.monotonic() + 60)
    while not share.over:
        share.advance()
    assert share.found == {"facts": {"copy GB/s": 3000.0}}


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('@event {"kind": "begin", "key": "a"}', {"kind": "begin", "key": "a"}),
        ('half a line of a library@event {"kind": "left", "units": 2}\n', {"kind": "left", "units": 2}),
        ('@event {"kind": "beg', None),
        ("@event 3", None),
        ("an ordinary line", None),
    ],
    ids=["whole", "after-other-output", "cut", "no-object", "ordinary"],
)
def test_events_in_lines(line: str, event: dict[str, object] | None) -> None:
    assert parse(line) == event


def test_a_log_keeps_the_first_and_the_last_lines() -> None:
    log = Log()
    for number in range(1000):
        log.add(f"line {number}\n")
    log.add("x" * 10_000)
    assert log.lines[0] == "line 0"
    assert "... 801 lines ..." in log.lines
    assert log.last == "x" * 400
