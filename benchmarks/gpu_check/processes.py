"""A process beside others: what it says arrives as events, the rest is its log, and it dies with all its children."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.events import parse

ROOT = Path(__file__).parents[2]
_FIRST_LINES, _LAST_LINES, _LINE_LENGTH = 60, 140, 400


class Log:
    """The first and the last lines of an output of any length."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._count = 0

    def add(self, line: str) -> None:
        """Keep a line, cut where it is too long."""
        line = line.rstrip()[:_LINE_LENGTH]
        self._count += 1
        if len(self._first) < _FIRST_LINES:
            self._first.append(line)
        else:
            self._last.append(line)

    @property
    def lines(self) -> list[str]:
        """What was kept, and how much was not."""
        missing = self._count - len(self._first) - len(self._last)
        return [*self._first, *([f"... {missing} lines ..."] if missing else []), *self._last]

    @property
    def last(self) -> str:
        """The last line that says something, "" without one."""
        return next((line.strip() for line in reversed(self.lines) if line.strip()), "")


class Process:
    """A Python process in a session of its own.

    Args:
        command: arguments of Python.
        environment: of the process.
        given: what it reads on its standard input, as JSON.
        log: receives its output.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], given: Mapping[str, Any], log: Log
    ) -> None:
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._talk, args=(json.dumps(dict(given)),), daemon=True)
        self._reader.start()

    def _talk(self, given: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Broken: it ended before it read that.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(given)
        for line in self._process.stdout:
            event = parse(line)
            if event is None:
                self._log.add(line)
            else:
                self._events.put(event)

    def events(self) -> list[dict[str, Any]]:
        """Return what was said since the last time."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._events.get_nowait())
        return found

    @property
    def status(self) -> int | None:
        """The exit status once the process has ended and all it said has been read, ``None`` before."""
        status = self._process.poll()
        if status is not None:
            # A child that outlived it may hold the other end of the pipe.
            self._reader.join(timeout=1.0)
        return status

    def kill(self) -> None:
        """End the process and its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=1.0)
