"""Plain lines on the terminal that do not disturb a progress bar."""

from __future__ import annotations

import rich


def say(line: str) -> None:
    """Print a line above a running progress bar; file names are printed as they are.

    Args:
        line: text without line breaks.
    """
    rich.get_console().print(line, markup=False, highlight=False, soft_wrap=True)
