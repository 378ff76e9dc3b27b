"""A share of a phase, carried to its end: after a crash, a device fault or a hang a new process takes the rest."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu_check.processes import Log, Process

_STARTS = 6  # processes of one share at most


@dataclass(frozen=True)
class Task:
    """What a process does.

    Attributes:
        name: in messages and in the log.
        command: arguments of Python; the process is one of ``benchmarks.gpu_check.worker``.
        unit_seconds: after which a unit hangs, and the process is ended.
    """

    name: str
    command: tuple[str, ...]
    unit_seconds: float = 60.0


@dataclass
class Share:
    """A task at work.

    Attributes:
        task: what is done.
        environment: of its processes.
        facts: what earlier phases found.
        end: moment after which no further unit begins.
        results: of the units, by key.
        found: facts that were said.
        faults: units that ended their process, and why, in words.
        left: units without time.
        log: of all its processes.
        over: whether there is nothing more to wait for.
        stopped: whether it was ended for want of time.
    """

    task: Task
    environment: Mapping[str, str]
    facts: Mapping[str, Any]
    end: float
    now: Callable[[], float] = time.monotonic
    results: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    left: int = 0
    log: Log = field(default_factory=Log)
    over: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        self._finished: list[str] = []
        self._unit, self._began, self._problem = "", self.now(), ""
        self._starts = 0
        self._process: Process | None = None
        self._start()

    def advance(self) -> None:
        """Hear what was said; take note of an end, and start a process for the rest where there is one."""
        if self.over:
            return
        assert self._process is not None
        status = self._process.status  # before the events: what comes later is heard the next time
        for event in self._process.events():
            self._hear(event)
        if status is None:
            if self.now() - self._began > self.task.unit_seconds:
                self._process.kill()
                self._give_up(f"took more than {self.task.unit_seconds:.0f} s")
        elif status == 0:
            self.over = True
        else:
            self._give_up(self._problem or _in_words(status, self.log.last))

    def stop(self) -> None:
        """End the process, and with it the share."""
        if not self.over and self._process is not None:
            self._process.kill()
            for event in self._process.events():
                self._hear(event)
            self.over = self.stopped = True

    def _start(self) -> None:
        self._starts += 1
        self._unit, self._began, self._problem, self.left = "", self.now(), "", 0
        given = {"seconds": self.end - self.now(), "finished": self._finished, "facts": dict(self.facts)}
        try:
            self._process = Process(self.task.command, self.environment, given, self.log)
        except OSError as error:
            self.faults.append(f"{self.task.name}: cannot be started: {error}")
            self.over = True

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "begin":
            self._unit, self._began = event["key"], self.now()
        elif kind == "done":
            self.results[event["key"]] = event["result"]
            self._finished.append(event["key"])
            self._unit, self._began = "", self.now()
        elif kind == "fault":
            self._problem = event["problem"]
        elif kind == "fact":
            self.found[event["name"]] = event["value"]
        elif kind == "left":
            self.left = event["units"]

    def _give_up(self, problem: str) -> None:
        """Note what ended a process, and let another one do the rest without the unit."""
        if not self._unit:
            self.faults.append(f"{self.task.name}: {problem}")
            self.over = True
            return
        self.faults.append(f"{self._unit}: {problem}")
        self._finished.append(self._unit)
        if self._starts < _STARTS and self.now() < self.end:
            self._start()
        else:
            self.over = True


def _in_words(status: int, last_line: str) -> str:
    what = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"{what}; last line: {last_line}" if last_line else what
