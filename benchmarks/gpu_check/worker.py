"""The side of a process that does a share of a phase: it says what it begins and what came of it, line by line.

See ``benchmarks.gpu_check.events`` for the lines.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu_check.events import MARK

DEVICE_FAULT = 70  # exit status after which nothing can be computed any more in this process


class Worker:
    """What a process was given on its standard input, and how it answers.

    Attributes:
        finished: keys of units that are done, or failed in an earlier process; they are left out.
        facts: what earlier phases found.
    """

    def __init__(self) -> None:
        given = json.load(sys.stdin)
        self.finished = set(given["finished"])
        self.facts: dict[str, Any] = given["facts"]
        self._end = time.monotonic() + given["seconds"]

    @property
    def seconds_left(self) -> float:
        """Seconds until no further unit should begin."""
        return self._end - time.monotonic()

    def begin(self, key: str) -> None:
        """Say that a unit begins: if the process dies or hangs now, this is why."""
        _emit(kind="begin", key=key)

    def done(self, key: str, result: Any) -> None:
        """Say what came of a unit; ``result`` is what JSON can hold."""
        _emit(kind="done", key=key, result=result)

    def fact(self, name: str, value: Any) -> None:
        """Say something that later phases or the table need."""
        _emit(kind="fact", name=name, value=value)

    def left(self, units: int) -> None:
        """Say how many units there was no time for."""
        _emit(kind="left", units=units)

    @contextmanager
    def watched(self, key: str, device: torch.device) -> Iterator[None]:
        """Begin a unit, and end the process if the device computes nothing any more after an error in it."""
        self.begin(key)
        try:
            yield
        except Exception as error:
            if not computes(device):
                _emit(kind="fault", key=key, problem=first_line(error))
                sys.stdout.flush()
                os._exit(DEVICE_FAULT)  # a dead context can hang at an orderly exit
            raise


def _emit(**values: Any) -> None:
    # In one piece: other threads and libraries write too.
    sys.stdout.write(f"{MARK}{json.dumps(values)}\n")
    sys.stdout.flush()


def computes(device: torch.device) -> bool:
    """Return whether a device still computes: after an illegal access a process can do nothing on its GPU."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2
    except RuntimeError:
        return False


def first_line(error: BaseException) -> str:
    """Return an error in a line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
