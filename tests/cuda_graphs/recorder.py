"""A CUDA graph on the CPU: operators recorded with the memory they read and write, and replayed without Python.

As on a GPU, a capture computes nothing that lasts: memory it wrote to is put back, and what it allocated holds nothing
until a replay writes it. A replay runs the recorded operators on the same memory, constants included. What graphs have
allocated lies in one pool: a replay spoils all of it that it does not write itself, and that nobody outside holds.
Values read on the host end a capture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastresunet.cuda_graphs.capture import Capture

READS_ON_THE_HOST = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::equal",
    "aten::is_nonzero",
    "aten::lift_fresh",  # a tensor of a Python number, copied to the device
    "aten::masked_select",
    "aten::nonzero",
}


@dataclass
class Operator:
    """An operator that was run; ``results`` are empty where it wrote to its arguments or looked at them only."""

    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: list[Any]

    def replay(self) -> None:
        """Run again and leave the results where they were."""
        found = tree_leaves(self.function(*self.arguments, **self.options))
        for result, value in zip(self.results, found, strict=False):
            if isinstance(result, Tensor):
                result.copy_(value)


class Recording(TorchDispatchMode):
    """Records operators, the memory that they allocate, and what was in the memory that they change."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Operator] = []
        self.allocated: dict[int, Tensor] = {}
        self.changed: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if reads_on_the_host(function, arguments):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function.name()}")
        self._remember_what_is_written(function, arguments, options)
        found = function(*arguments, **options)
        given = {_storage(x) for x in _tensors((arguments, options))}
        made = [x for x in _tensors(found) if _storage(x) not in given]
        self.allocated |= {_storage(x): _memory(x) for x in made if _storage(x) not in self.allocated}
        # Aliases, so that nothing here keeps a graph of autograd alive.
        arguments, options, results = tree_map_only(Tensor, Tensor.detach, (arguments, options, found))
        self.operators.append(Operator(function, arguments, options, tree_leaves(results) if made else []))
        return found

    def _remember_what_is_written(self, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        for position, parameter in enumerate(function._schema.arguments):
            declared = parameter.alias_info is not None and parameter.alias_info.is_write
            # PyTorch's own BatchNorm does not declare that it writes these.
            if declared or parameter.name in ("running_mean", "running_var"):
                value = options.get(parameter.name) if parameter.name in options else arguments[position : position + 1]
                for x in _tensors(value):
                    if _storage(x) not in self.allocated and _storage(x) not in self.changed:
                        self.changed[_storage(x)] = (_memory(x), _memory(x).clone())

    def put_back(self) -> None:
        """Undo the capture's own computation."""
        for memory, before in self.changed.values():
            memory.copy_(before)

    def not_held_elsewhere(self) -> list[Tensor]:
        """Return what was allocated and only this recording refers to."""
        operators = _tensors([(x.arguments, x.options, x.results) for x in self.operators])
        own = Counter(_storage(x) for x in [*operators, *self.allocated.values()])
        # The wrapper in Python that a storage got when it was first asked for counts too.
        return [x for key, x in self.allocated.items() if torch._C._storage_Use_Count(key) <= own[key] + 1]


class RecordingCapturer:
    """Captures by recording.

    Attributes:
        runs, captures, replays: how often each happened.
    """

    def __init__(self) -> None:
        self.runs = self.captures = self.replays = 0
        self._pool: list[Tensor] = []

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute."""
        self.runs += 1
        return compute()

    def turn(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def capture(self, compute: Callable[[], Tensor]) -> Capture:
        """Record a computation."""
        recording = Recording()
        try:
            with recording:
                result = compute()
        finally:
            recording.put_back()
        self.captures += 1
        self._pool += recording.not_held_elsewhere()
        spoil(recording.allocated.values())

        def replay() -> None:
            self.replays += 1
            spoil(self._pool)
            with torch.no_grad():
                for operator in recording.operators:
                    operator.replay()

        return Capture(result, replay)


def spoil(memory: Iterable[Tensor]) -> None:
    """Overwrite memory with values that show in a result."""
    for x in memory:
        x.fill_(float("nan") if x.is_floating_point() else 77)


def reads_on_the_host(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether an operator needs a value on the host, or brings one from there."""
    name = function.name().partition(".")[0]
    by_mask = name.startswith("aten::index") and any(x.dtype == torch.bool for x in _tensors(arguments[1:2]))
    return by_mask or name in READS_ON_THE_HOST


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _memory(x: Tensor) -> Tensor:
    """Return all memory of a tensor's storage."""
    return torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
