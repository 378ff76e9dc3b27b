"""Processes that behave as their units' names say, with nothing but Python."""

from __future__ import annotations

import os
from collections.abc import Mapping

from benchmarks.gpu_check.shares import Task

# A unit's name says what happens in it.
_WORKER = """
import ctypes, json, os, sys, time
given = json.load(sys.stdin)
def say(**event):
    print("@event " + json.dumps(event), flush=True)
for unit in sys.argv[1:]:
    if unit in given["finished"]:
        continue
    say(kind="begin", key=unit)
    if "crash" in unit:
        print("about to crash", flush=True)
        os._exit(3)
    if "segfault" in unit:
        ctypes.string_at(0)
    if "hang" in unit:
        while True:
            time.sleep(60)
    if "device" in unit:
        say(kind="fault", key=unit, problem="AcceleratorError: an illegal memory access was encountered")
        os._exit(70)
    if "facts" in unit:
        say(kind="fact", name=unit, value=given["facts"])
    say(kind="done", key=unit, result="wrong" if "wrong" in unit else "")
"""


def task(name: str, *units: str, unit_seconds: float = 30.0) -> Task:
    """Return a task whose units do what their names say: crash, segfault, hang, device (fault), facts, wrong."""
    return Task(name, ("-c", _WORKER, *units), unit_seconds)


def environment() -> Mapping[str, str]:
    """Return this process's environment."""
    return dict(os.environ)
