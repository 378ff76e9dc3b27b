"""Trained weights that come with the package: a safetensors file and a card for each, in ``fastresunet/weights``.

The files hold the network's state in float16 and its arguments as text; reading them runs no code.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

WEIGHTS = Path(__file__).parent / "weights"
_ARGUMENTS, _SIZE = "network", "size"


class Pretrained(NamedTuple):
    """Weights with what they belong to.

    Attributes:
        arguments: of ``FastResUNetPP``.
        state: its ``state_dict``, floating-point tensors in float32.
        size: height and width in pixels of the images it was trained on.
    """

    arguments: dict[str, Any]
    state: dict[str, Tensor]
    size: int


def names() -> list[str]:
    """Return the names of all weights that come with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load_pretrained(name: str) -> Pretrained:
    """Read weights that come with the package.

    Args:
        name: one of ``names()``, such as ``"kvasir-seg"``; the card beside the file says what they are good for.

    Raises:
        ModuleNotFoundError: the package ``safetensors`` is missing.
        ValueError: there are none of that name.
    """
    if name not in names():
        raise ValueError(f"there are no pretrained weights called {name!r}; there are: {', '.join(names())}")
    # Not at the top, so that the network works where nothing is installed but PyTorch.
    with importlib.import_module("safetensors").safe_open(WEIGHTS / f"{name}.safetensors", framework="pt") as file:
        about = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dictionary
    state = {key: x.float() if x.is_floating_point() else x for key, x in state.items()}
    return Pretrained(json.loads(about[_ARGUMENTS]), state, int(about[_SIZE]))


def save_pretrained(path: Path, arguments: dict[str, Any], state: dict[str, Tensor], size: int) -> None:
    """Write weights as ``load_pretrained`` reads them; see ``Pretrained`` for the arguments.

    Args:
        path: of the safetensors file.
        arguments: what JSON can hold.
        state: on any device; floating-point tensors are rounded to float16.
        size: height and width in pixels.

    Raises:
        ValueError: a number does not fit into float16.
    """
    halves = {key: (x.half() if x.is_floating_point() else x).cpu().contiguous() for key, x in state.items()}
    for key, x in halves.items():
        if x.is_floating_point() and not x.isfinite().all():
            raise ValueError(f"{key} has numbers that are not finite in float16")
    save = importlib.import_module("safetensors.torch").save_file
    save(halves, path, metadata={_ARGUMENTS: json.dumps(arguments), _SIZE: str(size)})
