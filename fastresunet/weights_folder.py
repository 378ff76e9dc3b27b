"""Weights as a folder, ``model.safetensors`` and ``config.json``, here or in a repository of Hugging Face."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastresunet.errors import CheckpointError
from fastresunet.files import replace_file
from fastresunet.pretrained import Pretrained, load_pretrained, names, read_weights, save_pretrained

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
# What config.json may say about a network; other keys are those of other tools.
ARGUMENTS = ("in_channels", "num_classes", "filters", "se_reduction", "aspp_rates")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def find_weights(name: str | Path, revision: str | None = None) -> Pretrained:
    """Read weights by the name of those that come with the package, from a folder, or from a repository.

    Args:
        name: such as ``"kvasir-seg"``; a folder; or ``"owner/name"`` on Hugging Face, which is downloaded once.
        revision: branch, tag or commit of the repository; None takes its newest.

    Raises:
        CheckpointError: the folder does not hold usable weights.
        ModuleNotFoundError: a repository is asked for, and huggingface_hub is missing.
        ValueError: the name is none of these.
    """
    if str(name) in names():
        return load_pretrained(str(name))
    if Path(name).is_dir():
        return read_folder(Path(name))
    if REPOSITORY.fullmatch(str(name)):
        return read_folder(download(str(name), revision))
    raise ValueError(
        f"there are no pretrained weights called {str(name)!r}; there are: {', '.join(names())}, folders that "
        "save_pretrained has written, and repositories called owner/name"
    )


def read_folder(folder: Path) -> Pretrained:
    """Read a folder that ``write_folder`` has written; ``config.json`` goes before the metadata of the weights.

    Args:
        folder: with ``model.safetensors``, and with ``config.json`` unless the weights say what they belong to.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(f"there is no {WEIGHTS_FILE} in {folder}; expected a folder of save_pretrained")
    weights = read_weights(folder / WEIGHTS_FILE)
    config = _read_config(folder / CONFIG_FILE)
    arguments = {key: config[key] for key in ARGUMENTS if key in config}
    size = config.get("size", weights.size)
    known_size = size if isinstance(size, int) else None
    return Pretrained(arguments or weights.arguments, weights.state, known_size, weights.classes)


def write_folder(
    folder: Path,
    architecture: str,
    arguments: dict[str, Any],
    state: dict[str, Tensor],
    size: int | None,
    classes: tuple[str, ...] = (),
) -> None:
    """Write weights in their own precision, and a description of their network that people can read.

    Args:
        folder: to write to; made if missing.
        architecture: name of the network.
        arguments: of the network, what JSON can hold.
        state: its ``state_dict``.
        size: height and width in pixels of the images it was trained on; None if unknown.
        classes: of its masks; none if unknown.

    Raises:
        OSError: a file cannot be written.
        ValueError: a number is not finite.
    """
    dtype = next((x.dtype for x in state.values() if x.is_floating_point()), torch.float32)
    save_pretrained(folder / WEIGHTS_FILE, arguments, state, size, dtype, classes)
    config = {"architecture": architecture, **arguments, "size": size}
    replace_file(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())


def download(repository: str, revision: str | None = None) -> Path:
    """Return the folder with the weights of a repository of Hugging Face; later calls find it on this machine.

    Args:
        repository: ``"owner/name"``.
        revision: branch, tag or commit; None takes the newest.

    Raises:
        ModuleNotFoundError: huggingface_hub is missing; what it raises for repositories is passed on.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise ModuleNotFoundError(
            f"there is no folder {repository}, and reading a repository of that name needs huggingface_hub. "
            'Run: pip install "fastresunet[hub]"',
            name="huggingface_hub",
        ) from error
    return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=[WEIGHTS_FILE, CONFIG_FILE]))


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}, expected the arguments of the network")
    return config
