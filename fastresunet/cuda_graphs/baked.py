"""What a captured graph has built in and would not notice: addresses, modes, hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Read by Python while a layer computes, so constants of a captured graph.
_MODULE_ATTRIBUTES = ("training", "momentum", "eps", "track_running_stats", "backend")
_MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Entries of a parameter group that a step does not read, or reads through a tensor.
_FREE_OPTIONS = ("params", "lr", "initial_lr")
_COMPARABLE = (bool, int, float, str, tuple, list)
_MISSING = object()


class Baked:
    """The state in which a graph was captured: a replay is right as long as it ``holds``.

    It is asked before every replay, so it compares objects that it remembers and walks through nothing.

    Args:
        modules: what computes, with all its submodules.
        optimizer: whose step is part of the graph, if any.

    Raises:
        ValueError: they are on several devices.
    """

    def __init__(self, modules: Iterable[nn.Module], optimizer: Optimizer | None = None) -> None:
        self._settings = _settings()
        self._entries: list[tuple[MutableMapping[Any, Any], Any, Any]] = []
        self._collections: list[Sized] = []
        self._hooks: list[tuple[Mapping[int, Any], tuple[int, ...]]] = []
        self._tensors: list[tuple[Tensor, int, torch.dtype, bool]] = []
        for root in modules:
            for module in root.modules():
                self._add_module(module)
        if optimizer is not None:
            self._add_optimizer(optimizer)
        self._sizes = [len(x) for x in self._collections]
        devices = sorted({str(tensor.device) for tensor, *_ in self._tensors})
        if len(devices) > 1:
            raise ValueError(f"a graph is captured on one device; parameters and buffers are on {', '.join(devices)}")

    def holds(self) -> bool:
        """Return whether nothing has changed: no tensor or layer added, replaced, moved, frozen, no option set."""
        if self._settings != _settings() or list(map(len, self._collections)) != self._sizes:
            return False
        for mapping, key, value in self._entries:
            found = mapping.get(key, _MISSING)
            if found is not value and not _are_equal(found, value):
                return False
        for hooks, keys in self._hooks:
            if (hooks or keys) and tuple(hooks) != keys:
                return False
        for tensor, address, dtype, requires_grad in self._tensors:
            if tensor.data_ptr() != address or tensor.requires_grad != requires_grad or tensor.dtype != dtype:
                return False
        return True

    def restorer(self) -> Callable[[], None]:
        """Return a function that takes back what is put in place of tensors and options from now on."""
        memory = [(tensor, tensor.detach()) for tensor, *_ in self._tensors]

        def restore() -> None:
            for mapping, key, value in self._entries:
                if value is _MISSING:
                    mapping.pop(key, None)
                elif mapping.get(key, _MISSING) is not value:
                    mapping[key] = value
            for tensor, before in memory:
                if tensor.data_ptr() != before.data_ptr():
                    tensor.data = before

        return restore

    def _add_module(self, module: nn.Module) -> None:
        attributes = vars(module)
        for name in _MODULE_ATTRIBUTES:
            if name in attributes:
                self._add(attributes, name)
        for name in _MODULE_HOOKS:
            self._hooks.append((attributes[name], tuple(attributes[name])))
        for name in ("_parameters", "_buffers", "_modules"):
            self._collections.append(attributes[name])
            for key, value in attributes[name].items():
                self._add(attributes[name], key)
                if isinstance(value, Tensor):
                    self._add_tensor(value)

    def _add_optimizer(self, optimizer: Optimizer) -> None:
        attributes = vars(optimizer)
        self._add(attributes, "state")
        self._add(attributes, "param_groups")
        self._collections.append(optimizer.param_groups)
        for group in optimizer.param_groups:
            self._collections.append(group["params"])
            for name in group:
                if name not in _FREE_OPTIONS:
                    self._add(group, name)
            known = {id(tensor) for tensor, *_ in self._tensors}
            for parameter in group["params"]:
                if id(parameter) not in known:
                    self._add_tensor(parameter)
        for state in optimizer.state.values():
            for name in state:
                self._add(state, name)
        self._entries += [(optimizer.state, parameter, state) for parameter, state in optimizer.state.items()]

    def _add(self, mapping: MutableMapping[Any, Any], key: Any) -> None:
        self._entries.append((mapping, key, mapping.get(key, _MISSING)))

    def _add_tensor(self, tensor: Tensor) -> None:
        self._tensors.append((tensor, tensor.data_ptr(), tensor.dtype, tensor.requires_grad))


def _are_equal(found: Any, value: Any) -> bool:
    return isinstance(value, _COMPARABLE) and type(found) is type(value) and bool(found == value)


def _settings() -> tuple[bool, bool]:
    """Return the settings of the process by which kernels are chosen."""
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
