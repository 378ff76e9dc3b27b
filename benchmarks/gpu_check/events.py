"""Events: lines of a process's output that hold ``MARK`` and JSON; all other output is its log.

What was said reaches the parent even if the process dies in the next moment, and needs no disk.
"""

from __future__ import annotations

import json
from typing import Any

MARK = "@event "


def parse(line: str) -> dict[str, Any] | None:
    """Return the event in a line of output, ``None`` if there is none, or only a part of one."""
    _, mark, content = line.partition(MARK)
    if not mark:
        return None
    try:
        event = json.loads(content)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None
