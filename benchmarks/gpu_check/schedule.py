"""Phases one after the other within a time, most telling first, while baselines compile beside those that allow it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu_check.shares import Share, Task

_PAUSE = 0.05  # seconds between two looks at the processes


@dataclass(frozen=True)
class Phase:
    """Tasks that run side by side.

    Attributes:
        name: of the phase, on the command line too.
        tasks: one for each process.
        seconds: they may take; less where less is left.
        quiet: measures times, and so does not run while something compiles beside it.
        beside: runs beside the phases that come next, until a quiet one needs the machine.
        at_once: processes at a time.
        grace: seconds the processes have to end by themselves after their time.
    """

    name: str
    tasks: Sequence[Task]
    seconds: float
    quiet: bool = False
    beside: bool = False
    at_once: int = 64
    grace: float = 10.0


@dataclass
class Finding:
    """What came of a phase.

    Attributes:
        phase: its name.
        seconds: it took.
        results: of its units, by key.
        faults: see ``Share``.
        left: units without time.
        stopped: processes ended for want of time.
        logs: lines of each process, by the name of its task.
    """

    phase: str
    seconds: float = 0.0
    results: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    left: int = 0
    stopped: int = 0
    logs: dict[str, list[str]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The outcome in a line."""
        parts = [f"{len(self.results)} done"]
        parts += [f"{self.left} without time"] if self.left else []
        parts += [f"{self.stopped} processes stopped for want of time"] if self.stopped else []
        parts += [f"{len(self.faults)} FAULTS"] if self.faults else []
        return f"{self.phase}: {', '.join(parts)}, {self.seconds:.0f} s"


class _Group:
    """The processes of a phase."""

    def __init__(self, phase: Phase, check: Schedule) -> None:
        self.phase = phase
        self._check, self._start = check, check.now()
        self.end = min(self._start + phase.seconds, check.end)
        self._waiting = list(phase.tasks)
        self._unstarted = 0
        self._shares: list[Share] = []

    def advance(self) -> None:
        """Start what there is room for, hear what is said, and stop what takes too long."""
        now = self._check.now()
        running = [share for share in self._shares if not share.over]
        while self._waiting and len(running) < self.phase.at_once and now < self.end:
            task = self._waiting.pop(0)
            share = Share(task, self._check.environment, self._check.facts, self.end, self._check.now)
            self._shares.append(share)
            running.append(share)
        for share in running:
            share.advance()
            self._check.facts.update(share.found)
        if now > self.end + self.phase.grace:
            self.stop()

    def stop(self) -> None:
        """End everything."""
        self._unstarted += len(self._waiting)
        self._waiting.clear()
        for share in self._shares:
            share.stop()

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing waits."""
        waits = self._waiting and self._check.now() < self.end
        return not waits and all(share.over for share in self._shares)

    def finding(self) -> Finding:
        """Return what came of it so far."""
        found = Finding(self.phase.name, self._check.now() - self._start, left=self._unstarted + len(self._waiting))
        for share in self._shares:
            found.results |= share.results
            found.faults += share.faults
            found.left += share.left
            found.stopped += share.stopped
            found.logs[share.task.name] = share.log.lines
        return found


class Schedule:
    """Runs phases; ``facts`` holds what they said.

    Args:
        environment: of the processes.
        seconds: for everything.
        report: is called after each phase with all findings.
        now: clock.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        seconds: float,
        report: Callable[[list[Finding]], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.environment, self.now, self.end = environment, now, now() + seconds
        self.facts: dict[str, Any] = {}
        self.findings: list[Finding] = []
        self._report = report
        self._running: list[_Group] = []

    def run(self, phases: Sequence[Phase]) -> None:
        """Run all phases there is time for, in an order that leaves no processor idle.

        Whatever ends this early, such as an interrupt, ends the processes too and keeps what they had found.
        """
        waiting = list(phases)
        try:
            while waiting and self.now() < self.end:
                phase = self._next(waiting)
                if phase is not None:
                    waiting.remove(phase)
                    self._running.append(_Group(phase, self))
                self._wait(until_idle=phase is not None and not phase.beside)
            self._wait(until_idle=True, all_of_them=True)
        finally:
            for group in list(self._running):
                group.stop()
                self._close(group)
        self.findings += [Finding(phase.name, left=len(phase.tasks)) for phase in waiting]

    def _next(self, waiting: Sequence[Phase]) -> Phase | None:
        """Return the phase to begin: the first, or while baselines compile the first that fits beside them."""
        if not self._running:
            return waiting[0]
        rest = min(group.end for group in self._running) - self.now()
        first, *others = waiting
        if not first.quiet:
            return first
        return next((phase for phase in others if not phase.quiet and phase.seconds <= rest), None)

    def _wait(self, until_idle: bool, all_of_them: bool = False) -> None:
        """Look after the processes: once, or until those that others wait for have ended."""
        while True:
            for group in list(self._running):
                group.advance()
                if group.over:
                    self._close(group)
            awaited = [group for group in self._running if all_of_them or not group.phase.beside]
            time.sleep(_PAUSE if self._running else 0)
            if not (until_idle and awaited):
                return

    def _close(self, group: _Group) -> None:
        self._running.remove(group)
        self.findings.append(group.finding())
        self._report(self.findings)
