"""Optional packages, and the error for what cannot be exported or compiled."""

from __future__ import annotations

import importlib
from types import ModuleType


class ExportError(Exception):
    """A network cannot be exported or compiled as asked; the message says why and what to do."""


def require(name: str, purpose: str) -> ModuleType:
    """Import an optional package of the ``cpu`` extra.

    Args:
        name: of the package.
        purpose: what needs it, for the message.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ExportError(f'{purpose} needs {name}. Run: pip install "fastresunet[cpu]"') from error
