"""A plan of what an operation does, and its replay: allocate, fill in addresses, launch.

Tensors are known by their *slot*. Operands have the first ones, then comes what the operation allocates or gets from a
call, as ``recording`` numbers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime import driver


class Slot(int):
    """Stands for a tensor in the arguments of a call and in the results."""


class Allocation(NamedTuple):
    """A tensor that others than launches see."""

    slot: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Scratch(NamedTuple):
    """Memory that only launches see.

    Attributes:
        parts: of each slot, with its first byte and its length in bytes.
        length: of all of it.
    """

    parts: list[tuple[int, int, int]]
    length: int


class PlannedCall(NamedTuple):
    """A call of PyTorch that returns a tensor: slots stand for tensors in the arguments, and for that one."""

    function: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    returned: int


class PlannedView(NamedTuple):
    """A view that others than launches see: its slot, that of the memory, and how it lies there.

    ``start`` counts the elements from the start of the memory.
    """

    slot: int
    memory: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    start: int


class PlannedLaunch(NamedTuple):
    """A launch of a compiled kernel.

    Attributes:
        run: Triton's launcher of it.
        grid: programs in each of three directions.
        function: the loaded kernel.
        metadata: packed, as the launcher takes it.
        values: all parameters, addresses left out.
        addresses: for each address its place in ``values``, the slot of the memory, and the bytes from its start.
        dtypes: of what is at each address.
    """

    run: Any
    grid: tuple[int, int, int]
    function: Any
    metadata: Any
    values: list[Any]
    addresses: list[tuple[int, int, int]]
    dtypes: list[torch.dtype]


class Plan(NamedTuple):
    """What an operation does.

    Attributes:
        slots: how many there are.
        allocations: made first.
        scratch: likewise.
        steps: in their order.
        results: the operation's, with slots for tensors.
    """

    slots: int
    allocations: list[Allocation]
    scratch: Scratch
    steps: list[PlannedCall | PlannedView | PlannedLaunch]
    results: Any

    def replay(self, operands: Sequence[Tensor], addresses: Sequence[int]) -> Any:
        """Do it for other operands of the same shapes, strides, dtypes, device and alignment; return the results.

        Args:
            operands: tensors, on one device; the current one if it is a GPU.
            addresses: of their data.
        """
        first, free = operands[0], self.slots - len(operands)
        tensors: list[Any] = [*operands, *[None] * free]
        starts = [*addresses, *[0] * free]
        for slot, size, stride, dtype in self.allocations:
            tensors[slot] = allocated = first.new_empty_strided(size, stride, dtype=dtype)
            starts[slot] = allocated.data_ptr()
        parts, length = self.scratch
        if length:
            scratch = first.new_empty_strided((length,), (1,), dtype=torch.uint8)
            start = scratch.data_ptr()
            for slot, offset, part in parts:
                tensors[slot], starts[slot] = (scratch, offset, part), start + offset
        device = driver.active
        stream = device.get_current_stream(first.device.index)
        by_address = first.is_cuda or getattr(device, "takes_addresses", False)
        for step in self.steps:
            if isinstance(step, PlannedView):
                _view(step, tensors)
                continue
            if isinstance(step, PlannedCall):
                _call(step, tensors, starts)
                continue
            run, grid, function, metadata, values, filled_in, dtypes = step
            values = values.copy()
            if by_address:
                for place, slot, distance in filled_in:
                    values[place] = starts[slot] + distance
            else:
                for (place, slot, distance), dtype in zip(filled_in, dtypes, strict=True):
                    values[place] = _part(tensors[slot], distance, dtype)
            run(*grid, stream, function, metadata, None, None, None, *values)
        return _with_tensors(self.results, tensors)


def _view(view: PlannedView, tensors: list[Any]) -> None:
    slot, memory, size, stride, start = view
    whole = tensors[memory]
    tensors[slot] = whole.as_strided(size, stride, whole.storage_offset() + start)


def _call(call: PlannedCall, tensors: list[Any], starts: list[int]) -> None:
    arguments, named = _with_tensors((call.arguments, call.named), tensors)
    returned = call.function(*arguments, **named)
    tensors[call.returned], starts[call.returned] = returned, returned.data_ptr()


def _with_tensors(values: Any, tensors: Sequence[Any]) -> Any:
    """Return what stands in ``values``, tensors in the place of slots."""
    kind = type(values)
    if kind is Slot:
        return tensors[values]
    if kind is list:
        return [_with_tensors(value, tensors) for value in values]
    if kind is tuple:
        return tuple([_with_tensors(value, tensors) for value in values])
    if kind is dict:
        return {name: _with_tensors(value, tensors) for name, value in values.items()}
    return values


def with_slots(values: Any, slots: Any) -> Any:
    """Return what stands in ``values``, the slot that ``slots`` gives for each tensor in its place."""
    if isinstance(values, Tensor):
        return Slot(slots(values))
    if isinstance(values, list):
        return [with_slots(value, slots) for value in values]
    if isinstance(values, tuple):
        return tuple(with_slots(value, slots) for value in values)
    if isinstance(values, dict):
        return {name: with_slots(value, slots) for name, value in values.items()}
    return values


def _part(memory: Tensor | tuple[Tensor, int, int], distance: int, dtype: torch.dtype) -> Tensor:
    """Return a tensor that begins so many bytes after ``memory``, for drivers that take no addresses.

    Args:
        memory: a tensor, or scratch memory with the first byte of a part and its length.
        distance: in bytes.
        dtype: of the tensor.
    """
    if isinstance(memory, tuple):
        scratch, offset, length = memory
        return scratch[offset + distance : offset + length].view(dtype)
    if not distance:
        return memory
    start = (memory.storage_offset() * memory.element_size() + distance) // dtype.itemsize
    return torch.empty(0, dtype=dtype, device=memory.device).set_(memory.untyped_storage(), start, (1,), (1,))
