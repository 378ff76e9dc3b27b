"""The file of tuned choices: one for each device and each version of Triton and PyTorch."""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import triton

from .config import Config

# To be raised when the same configuration means another kernel than before, so that older files are ignored.
_FORMAT = 1
_BACKENDS = ("torch", "triton")


@dataclass(frozen=True)
class Tuned:
    """Content of a file.

    Attributes:
        configs: the fastest configuration, by ``layer_key``.
        backends: the faster of ``"torch"`` and ``"triton"``, by ``operation_key``.
    """

    configs: dict[str, Config] = field(default_factory=dict)
    backends: dict[str, str] = field(default_factory=dict)

    # One object while the file stays as it is, see ``read``: a key of what depends on it.
    __hash__ = object.__hash__


def cache_file(device: torch.device) -> Path:
    """Return the file of a device.

    It lies in ``FASTRESUNET_CACHE``, or else in ``fastresunet`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    return _cache_file(device, os.environ.get("FASTRESUNET_CACHE"), os.environ.get("XDG_CACHE_HOME"))


@functools.cache
def _cache_file(device: torch.device, folder: str | None, all_caches: str | None) -> Path:
    path = Path(folder) if folder else Path(all_caches or Path.home() / ".cache") / "fastresunet"
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    name = f"{model} triton {triton.__version__} torch {torch.__version__}"
    return path / (re.sub(r"[^\w.+-]+", "-", name) + ".json")


@functools.cache
def read(file: Path) -> Tuned:
    """Return the content of a file, read once in a process.

    A file that does not exist is empty. So is one that cannot be understood, with a warning that names it.
    """
    try:
        return _parsed(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Tuned()
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        warnings.warn(
            f"tuned kernels in {file} are ignored ({error}): delete the file, or run fastresunet tune again",
            stacklevel=2,
        )
        return Tuned()


def merge(file: Path, tuned: Tuned) -> None:
    """Add choices to a file, in place of older ones for the same keys; the file is written completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    read.cache_clear()
    known = read(file)
    configs = {key: asdict(config) for key, config in {**known.configs, **tuned.configs}.items()}
    content = {"format": _FORMAT, "configs": configs, "backends": {**known.backends, **tuned.backends}}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    read.cache_clear()


def _parsed(content: Any) -> Tuned:
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError("not a file of this version of fastresunet")
    configs = {key: _config(values) for key, values in content["configs"].items()}
    backends = dict(content["backends"])
    if not all(backend in _BACKENDS for backend in backends.values()):
        raise ValueError("it names a backend that does not exist")
    return Tuned(configs, backends)


def _config(values: dict[str, Any]) -> Config:
    config = Config(**values)
    for attribute in fields(config):
        value = getattr(config, attribute.name)
        if type(value).__name__ != attribute.type or (attribute.type == "int" and value < 1):
            raise ValueError(f"it gives {value!r} as {attribute.name}")
    return config
