"""The configuration a kernel runs with, and the backend of an operation: the default, or what tuning found faster."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .cache import Tuned, cache_file, read
from .config import Config, Layer, rule
from .keys import layer_key, operation_key

_default = functools.lru_cache(maxsize=4096)(rule)
_overrides: list[Callable[[Layer], Config | None]] = []


def choose(layer: Layer, device: torch.device) -> Config:
    """Return the configuration that a layer is computed with.

    That is the default, or the tuned one where ``FASTRESUNET_AUTOTUNE=1`` is set and there is one; nothing is measured
    here. Under ``torch.use_deterministic_algorithms`` it is always the default, so that results do not depend on which
    tunings a machine has.

    Args:
        layer: what is computed.
        device: where.
    """
    for override in reversed(_overrides):
        config = override(layer)
        if config is not None:
            return config
    configs = tuned(device).configs
    return (configs.get(layer_key(layer)) if configs else None) or _default(layer)


def choose_backend(name: str, operands: Sequence[Any], device: torch.device) -> str:
    """Return ``"torch"`` where tuning, enabled as for ``choose``, found PyTorch faster, otherwise ``"triton"``.

    Args:
        name: of the operation.
        operands: its arguments without the backend.
        device: where it is computed.
    """
    backends = tuned(device).backends
    return backends.get(operation_key(name, operands), "triton") if backends else "triton"


@contextmanager
def forced(configs: Mapping[Layer, Config]) -> Iterator[None]:
    """Compute layers with given configurations, under deterministic algorithms too."""
    with _overriding(configs.get):
        yield


@contextmanager
def recorded() -> Iterator[list[Layer]]:
    """Give a list that receives every layer a configuration is chosen for."""
    layers: list[Layer] = []
    with _overriding(layers.append):  # which returns None: no override
        yield layers


@contextmanager
def _overriding(override: Callable[[Layer], Config | None]) -> Iterator[None]:
    _overrides.append(override)
    try:
        yield
    finally:
        _overrides.remove(override)


_NOTHING = Tuned()


def is_overridden() -> bool:
    """Return whether configurations are forced or recorded."""
    return bool(_overrides)


def tuned(device: torch.device) -> Tuned:
    """Return the tunings in force: nothing unless they are enabled as for ``choose``; one object while they stay."""
    if os.environ.get("FASTRESUNET_AUTOTUNE") != "1" or torch.are_deterministic_algorithms_enabled():
        return _NOTHING
    return read(cache_file(device))
