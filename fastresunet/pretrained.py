"""Weights with what they belong to: in memory, as safetensors files, and those that come with the package.

The files hold a network's state and, as text, its arguments; reading them runs no code. Those of the package are in
``fastresunet/weights``, in float16, with a card for each.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fastresunet.errors import CheckpointError
from fastresunet.files import replace_file
from fastresunet.parameter_shapes import check_names, network_arguments

WEIGHTS = Path(__file__).parent / "weights"
_ARGUMENTS, _SIZE, _CLASSES = "network", "size", "classes"
Network = TypeVar("Network", bound=nn.Module)


class Pretrained(NamedTuple):
    """Weights with what they belong to.

    Attributes:
        arguments: of ``FastResUNetPP``; empty where they are to follow from the shapes.
        state: its ``state_dict``, floating-point tensors in float32.
        size: height and width in pixels of the images it was trained on; None if unknown.
        classes: of its training, the background first, with their pixel values, such as ``"polyp 1"``; none if unknown.
    """

    arguments: dict[str, Any]
    state: dict[str, Tensor]
    size: int | None
    classes: tuple[str, ...] = ()


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
    return read_weights(WEIGHTS / f"{name}.safetensors")


def read_weights(path: Path) -> Pretrained:
    """Read a safetensors file, of ``save_pretrained`` or with parameters alone.

    Args:
        path: of the file.

    Raises:
        CheckpointError: the file is damaged, or no safetensors file, or its text is not that of ``save_pretrained``.
        ModuleNotFoundError: the package ``safetensors`` is missing.
        OSError: the file cannot be opened.
    """
    # Not at the top, so that the network works where nothing is installed but PyTorch.
    safetensors = importlib.import_module("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dictionary
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file, or is truncated or damaged ({error})") from error
    state = {key: x.float() if x.is_floating_point() else x for key, x in state.items()}
    try:
        arguments = json.loads(about.get(_ARGUMENTS, "{}"))
        size = int(about[_SIZE]) if _SIZE in about else None
        classes = json.loads(about.get(_CLASSES, "[]"))
        if not isinstance(arguments, dict):
            raise ValueError(f"{_ARGUMENTS} is no dictionary")
        if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
            raise ValueError(f"{_CLASSES} is no list of texts")
    except ValueError as error:
        raise CheckpointError(f"the metadata of {path} is not what this package writes: {error}") from error
    return Pretrained(arguments, state, size, tuple(classes))


def save_pretrained(
    path: Path,
    arguments: dict[str, Any],
    state: dict[str, Tensor],
    size: int | None = None,
    dtype: torch.dtype = torch.float16,
    classes: tuple[str, ...] = (),
) -> None:
    """Write weights as ``read_weights`` reads them; see ``Pretrained`` for the arguments.

    Args:
        path: of the safetensors file; its folder is made, and the file written completely or not at all.
        arguments: what JSON can hold.
        state: on any device.
        size: height and width in pixels; None if unknown.
        dtype: to which floating-point tensors are rounded.
        classes: of the training; none if unknown.

    Raises:
        OSError: the file cannot be written.
        ValueError: a number does not fit into ``dtype``.
    """
    rounded = {key: (x.to(dtype) if x.is_floating_point() else x).cpu().contiguous() for key, x in state.items()}
    for key, x in rounded.items():
        if x.is_floating_point() and not x.isfinite().all():
            raise ValueError(f"{key} has numbers that are not finite in {str(dtype).removeprefix('torch.')}")
    about = {_ARGUMENTS: json.dumps(arguments)} | ({} if size is None else {_SIZE: str(size)})
    about |= {_CLASSES: json.dumps(classes)} if classes else {}
    replace_file(path, importlib.import_module("safetensors.torch").save(rounded, about))


def build(network: Callable[..., Network], weights: Pretrained, source: str, **options: Any) -> Network:
    """Return the network of weights, in evaluation mode on the CPU.

    Args:
        network: its class.
        weights: what it shall hold.
        source: where they come from, for messages.
        options: further arguments of the class.

    Raises:
        CheckpointError: the weights are not those of such a network; the message says what is wrong first.
    """
    try:
        model = network(**(weights.arguments or network_arguments(weights.state)), **options)
        check_names(weights.state, model.state_dict())
        model.load_state_dict(weights.state)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {source} does not hold the parameters of ResUNet++: {reason(error)}. Use a checkpoint of this "
            "package or of the published PyTorch model, or a .h5 file of the TensorFlow model"
        ) from error
    return model.eval()


def reason(error: Exception) -> str:
    """Return the one sentence of an error that says what is wrong.

    Args:
        error: of PyTorch, whose messages have many lines, or of this package.
    """
    if isinstance(error, KeyError):
        return f"missing parameter {error}"
    lines = [line.strip().partition(". ")[0].rstrip(".") for line in str(error).splitlines()]
    # The first line of load_state_dict says only that something is wrong; the first sentence of a line says enough.
    return next((line for line in lines if line and not line.startswith("Error(s) in loading")), type(error).__name__)
