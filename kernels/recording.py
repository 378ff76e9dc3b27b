"""What an operation does, recorded once as a plan: its allocations, its launches, and the small PyTorch calls between.

A launch takes an address: that of an operand, of an allocation or of what a call returned, the *root* of its tensor,
and a distance from there, so that views need not be made again. Allocations that only launches see become parts of one
scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from .launch import Launch, listened_to
from .replay import Allocation, Plan, PlannedCall, PlannedLaunch, PlannedView, Scratch, with_slots
from .rounding import cdiv

_aten = torch.ops.aten
_ALLOCATIONS = frozenset(
    {
        _aten.empty.memory_format,
        _aten.empty_like.default,
        _aten.empty_strided.default,
        _aten.new_empty.default,
        _aten.new_empty_strided.default,
    }
)
# Calls on vectors and weights whose results depend on their arguments alone.
_REPEATABLE = frozenset(
    {
        _aten._to_copy.default,
        _aten.add.Tensor,
        _aten.cat.default,
        _aten.clone.default,
        _aten.mul.Tensor,
        _aten.stack.default,
        _aten.sum.dim_IntList,
        _aten.zeros_like.default,
    }
)
_SCRATCH_ALIGNMENT = 256


class _Place(NamedTuple):
    """A tensor's slot, that of its root, and the bytes from the start of the root's data to its own."""

    slot: int
    root: int
    distance: int


class _Called(NamedTuple):
    """A call of PyTorch with the slots of the tensors it took, and of the one it returned."""

    function: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    taken: list[int]
    slot: int


class _Viewed(NamedTuple):
    """The slots of a view and of its root."""

    slot: int
    root: int


class _Launched(NamedTuple):
    """A launch, and what Triton compiled for it."""

    compiled: Any
    launch: Launch


class Recording(TorchDispatchMode):
    """Records what is allocated, called and launched while it is active.

    Args:
        operands: tensors that the operation is given.
    """

    # Of an operation called by another one it records the parts.
    sees_inside_operations = True

    def __init__(self, operands: Sequence[Tensor]) -> None:
        super().__init__()
        self._operands = len(operands)
        self._tensors: list[Tensor] = []  # by slot; kept, so that no later tensor has the id of one
        self._same: list[Tensor] = []  # others that stand for those; kept likewise
        self._places: dict[int, _Place] = {}
        self._steps: list[_Called | _Viewed | _Launched] = []
        self._is_repeatable = True
        for operand in operands:
            self._add(operand, [])

    def __enter__(self) -> Recording:
        """Begin."""
        self._listening = listened_to(self._see_launch)
        self._listening.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """End."""
        super().__exit__(*error)
        self._listening.__exit__(*error)

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Make a call and record it."""
        named = named or {}
        result = function(*arguments, **named)
        if isinstance(result, Tensor) and id(result) in self._places and not function._schema.is_mutable:
            return result  # itself, as of a conversion to the dtype it has
        if function is _aten.detach.default and id(arguments[0]) in self._places:
            # The same to everybody here, below autograd; PyTorch detaches what its factories return.
            self._same.append(result)
            self._places[id(result)] = self._places[id(arguments[0])]
            return result
        taken = [self._places.get(id(x)) for x in _tensors_in((arguments, list(named.values())))]
        sources = [place for place in taken if place is not None]
        returned = list(_tensors_in(result))
        if None in taken or function._schema.is_mutable or (taken and not returned):
            self._is_repeatable = False  # the last: a number read from a tensor
        elif all(self._is_view(x, sources) for x in returned):
            for view in returned:
                slot = self._add(view, sources)
                self._steps.append(_Viewed(slot, self._places[id(view)].root))
        elif function in _ALLOCATIONS or function in _REPEATABLE:
            slot = self._add(result, [])
            self._steps.append(_Called(function, arguments, named, [place.slot for place in sources], slot))
        else:
            self._is_repeatable = False
        return result

    def plan(self, results: Any) -> Plan | None:
        """Return what gives such results again, ``None`` if something cannot be repeated.

        Args:
            results: of the operation: tensors, in lists or tuples.
        """
        if not self._is_repeatable or any(id(x) not in self._places for x in _tensors_in(results)):
            return None
        kept, allocated, scratch = self._needed({self._slot(x) for x in _tensors_in(results)})
        return Plan(
            len(self._tensors),
            [Allocation(k, tuple(x.size()), x.stride(), x.dtype) for k in allocated for x in [self._tensors[k]]],
            self._scratch(scratch),
            [self._planned(step) for step in kept],
            with_slots(results, self._slot),
        )

    def _needed(self, seen: set[int]) -> tuple[list[_Called | _Viewed | _Launched], list[int], list[int]]:
        """Return the steps that are needed, the allocations among them apart, and those that only launches see.

        Args:
            seen: slots of the results; added to.
        """
        kept: list[_Called | _Viewed | _Launched] = []
        allocated, scratch = [], []
        addressed: set[int] = set()
        for step in reversed(self._steps):
            if isinstance(step, _Launched):
                addressed |= {self._places[id(x)].root for x in step.launch.arguments if isinstance(x, Tensor)}
                kept.append(step)
            elif isinstance(step, _Viewed):
                if step.slot in seen:
                    seen.add(step.root)
                    kept.append(step)
            elif step.function in _ALLOCATIONS:
                if step.slot in seen:
                    allocated.append(step.slot)
                elif step.slot in addressed:
                    scratch.append(step.slot)
            elif step.slot in seen or step.slot in addressed:
                seen |= set(step.taken)
                kept.append(step)
        return kept[::-1], allocated[::-1], scratch[::-1]

    def _scratch(self, slots: Sequence[int]) -> Scratch:
        parts, end = [], 0
        for slot in slots:
            length = self._tensors[slot].untyped_storage().nbytes()
            parts.append((slot, end, length))
            end += cdiv(length, _SCRATCH_ALIGNMENT) * _SCRATCH_ALIGNMENT
        return Scratch(parts, end)

    def _planned(self, step: _Called | _Viewed | _Launched) -> PlannedCall | PlannedView | PlannedLaunch:
        if isinstance(step, _Viewed):
            view = self._tensors[step.slot]
            start = self._places[id(view)].distance // view.element_size()
            return PlannedView(*step, tuple(view.size()), view.stride(), start)
        if isinstance(step, _Called):
            arguments, named = with_slots((step.arguments, step.named), self._slot)
            return PlannedCall(step.function, arguments, named, step.slot)
        compiled, launched = step
        constants = launched.kernel.arg_names[len(launched.arguments) :]
        values = [*launched.arguments, *(launched.options[name] for name in constants)]
        addresses, dtypes = [], []
        for place, value in enumerate(values):
            if isinstance(value, Tensor):
                _, root, distance = self._places[id(value)]
                addresses.append((place, root, distance))
                dtypes.append(value.dtype)
                values[place] = None
        columns, rows, layers = (*launched.grid, 1, 1)[:3]
        loaded = (compiled.run, (columns, rows, layers), compiled.function, compiled.packed_metadata)
        return PlannedLaunch(*loaded, values, addresses, dtypes)

    def _see_launch(self, run: Callable[[], Any], launched: Launch) -> None:
        with _disable_current_modes():  # Triton's own calls of PyTorch are no part of the operation
            compiled = run()
        known = all(id(x) in self._places for x in launched.arguments if isinstance(x, Tensor))
        if compiled is None or not known or launched.kernel.pre_run_hooks:
            self._is_repeatable = False
        else:
            self._steps.append(_Launched(compiled, launched))

    def _slot(self, tensor: Tensor) -> int:
        return self._places[id(tensor)].slot

    def _add(self, tensor: Tensor, sources: Sequence[_Place]) -> int:
        """Give a tensor a slot; a view of a source lies in the memory of that one's root, others in their own."""
        slot = root = len(self._tensors)
        distance = 0
        for source in sources:
            if self._is_view(tensor, [source]):
                root = source.root
                distance = tensor.data_ptr() - self._tensors[root].data_ptr()
        self._tensors.append(tensor)
        self._places[id(tensor)] = _Place(slot, root, distance)
        return slot

    def _is_view(self, tensor: Tensor, places: Sequence[_Place]) -> bool:
        """Return whether a tensor lies in the memory of one of ``places``, seen as the same dtype."""
        own = tensor.untyped_storage()._cdata
        sources = [self._tensors[place.root] for place in places]
        return any(x.untyped_storage()._cdata == own and x.dtype == tensor.dtype for x in sources)


def _tensors_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors_in(value)
