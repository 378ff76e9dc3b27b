"""Pieces of HTML that a report is made of."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence


def table(headings: Iterable[str], rows: Iterable[Sequence[str]], numbers: range) -> str:
    """Return a table.

    Args:
        headings: of the columns, HTML.
        rows: cells, HTML.
        numbers: columns that hold numbers, and are set to the right.
    """

    def line(tag: str, cells: Iterable[str]) -> str:
        marked = (
            f'<{tag} class="number">{cell}</{tag}>' if column in numbers else f"<{tag}>{cell}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>\n{line("th", headings)}\n{body}\n</table></div>'


def decimals(value: float, digits: int) -> str:
    """Return a number with so many digits after the point; a dash for NaN."""
    return "&ndash;" if math.isnan(value) else f"{value:.{digits}f}"


def count(number: int, noun: str) -> str:
    """Return how many there are of something, in words: ``1 image``, ``2 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def data_uri(content: bytes, kind: str) -> str:
    """Return a file as an address that holds it.

    Args:
        content: of the file.
        kind: its media type.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def figure(svg: bytes, title: str, text: str) -> str:
    """Return a chart with its caption.

    Args:
        svg: file.
        title: what is shown, HTML.
        text: what it says, HTML.
    """
    return (
        f'<figure><img alt="{title}" src="{data_uri(svg, "image/svg+xml")}">'
        f"<figcaption><b>{title}.</b> {text}</figcaption></figure>"
    )
