"""Registration of the fused operations with PyTorch: schema, implementation and shapes; gradient; autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake

from fastresunet.ops.autocast import autocast_dtype
from fastresunet.ops.backend import repeating
from fastresunet.ops.layout import channels_last

LIBRARY = Library("fastresunet", "DEF")


def register(schema: str, implementation: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    """Register an operation for every device and return it.

    Args:
        schema: PyTorch operator schema, ``name(arguments) -> results``.
        implementation: computes the results; runs with autocast off, see ``autocasting``.
        shapes: returns empty tensors of the results' shapes, dtypes and layouts (for ``torch.compile`` and export).

    Returns:
        The operation, as found under ``torch.ops.fastresunet``.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

    computed = repeating(implementation) if "str backend)" in schema else implementation

    @functools.wraps(implementation)
    def without_autocast(*args: Any) -> Any:
        with torch._C._DisableAutocast():
            return computed(*args)

    LIBRARY.impl(name, without_autocast, "CompositeExplicitAutograd")
    register_fake(f"fastresunet::{name}", shapes, lib=LIBRARY)
    operation: Callable[..., Any] = getattr(torch.ops.fastresunet, name).default
    return operation


def operand_dtype(data: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype a convolution computes in: autocast's where it is on, that of its operands otherwise.

    Raises:
        TypeError: without autocast, the operands have different dtypes.
    """
    dtype = autocast_dtype(data.device.type)
    if weight.dtype != torch.float64 and dtype is not None:
        return dtype
    if data.dtype != weight.dtype:
        raise TypeError(f"data and weight must have one dtype without autocast, got {data.dtype} and {weight.dtype}")
    return weight.dtype


def autocasting(name: str, *images: int) -> None:
    """Give an operation autocast: as for PyTorch's own, images that are not float64 are cast to its dtype.

    Vectors and parameters are not: the operations read them in their own dtypes.

    Args:
        name: of the operation.
        images: which arguments are images, or lists of them.
    """
    operation: Callable[..., Any] = getattr(torch.ops.fastresunet, name).default

    def register_for(device: str) -> None:
        key = f"Autocast{device.upper()}"
        without = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

        def with_autocast(*arguments: Any) -> Any:
            dtype = torch.get_autocast_dtype(device)
            cast = [_cast(value, dtype) if place in images else value for place, value in enumerate(arguments)]
            with torch._C._ExcludeDispatchKeyGuard(without):
                return operation(*cast)

        LIBRARY.impl(name, with_autocast, key)

    for device in ("cpu", "cuda"):
        register_for(device)


def _cast(image: Any, dtype: torch.dtype) -> Any:
    if isinstance(image, list):
        return [_cast(one, dtype) for one in image]
    return image if image is None or image.dtype == torch.float64 else channels_last(image.to(dtype))


class _Tensors:
    """Where the tensors of a call stand in its arguments or results; the tensors themselves are not kept."""

    # What an argument is that is no list of tensors: those have their length.
    _TENSOR, _OTHER = -1, -2

    def __init__(self, values: Sequence[Any]) -> None:
        self._lengths = [self._length(value) for value in values]

    def _length(self, value: Any) -> int:
        if isinstance(value, Tensor) or value is None:
            return self._TENSOR
        return len(value) if isinstance(value, list) and value and isinstance(value[0], Tensor) else self._OTHER

    def flattened(self, values: Sequence[Any]) -> list[Any]:
        """Return what stands for tensors in ``values``; ``None`` for a list stands for each of its tensors."""
        flat: list[Any] = []
        for length, value in zip(self._lengths, values, strict=True):
            if length == self._TENSOR:
                flat.append(value)
            elif length != self._OTHER:
                flat += [None] * length if value is None else value
        return flat

    def grouped(self, flat: Iterable[Any]) -> list[Any]:
        """Undo ``flattened``; ``None`` stands for what is no tensor."""
        values = iter(flat)
        return [
            next(values) if length == self._TENSOR else None if length == self._OTHER else [*islice(values, length)]
            for length in self._lengths
        ]


def differentiable(name: str, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Give an operation its gradient.

    ``torch.library.register_autograd`` does the same, but by flattening arguments as trees and filling in defaults it
    takes the host longer than a launch.

    Args:
        name: of the operation.
        setup_context: called with the context, the arguments and the results; keeps what ``backward`` needs.
            ``ctx.needed`` says for each argument whether its gradient is wanted, a list for a list of tensors.
        backward: called with the context and a gradient for each tensor in the results; returns one for each argument,
            a list for a list of tensors, ``None`` for what is no tensor.
    """
    operation: Callable[..., Any] = getattr(torch.ops.fastresunet, name).default

    class Gradient(torch.autograd.Function):
        """The operation's node in the graph."""

        @staticmethod
        def forward(ctx: Any, arguments: tuple[Any, ...], given: _Tensors, *_: Tensor | None) -> tuple[Any, ...]:
            with torch._C._AutoDispatchBelowAutograd():
                results = operation(*arguments)
            ctx.given, ctx.needed = given, given.grouped(ctx.needs_input_grad[2:])
            setup_context(ctx, arguments, results)
            results = (results,) if isinstance(results, Tensor) else results
            returned = _Tensors(results)
            return returned, *returned.flattened(results)

        @staticmethod
        def backward(ctx: Any, _: None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            return None, None, *ctx.given.flattened(backward(ctx, *grads))

    # Under this name the operation stands in the graph.
    node: Any = type(f"fastresunet_{name}", (Gradient,), {})

    def with_gradient(*arguments: Any) -> Any:
        given = _Tensors(arguments)
        tensors = given.flattened(arguments)
        if not torch.is_grad_enabled() or not any(x is not None and x.requires_grad for x in tensors):
            with torch._C._AutoDispatchBelowAutograd():
                return operation(*arguments)
        returned, *results = node.apply(arguments, given, *tensors)
        return results[0] if len(results) == 1 else tuple(returned.grouped(results))

    LIBRARY.impl(name, with_gradient, "Autograd")


def differentiable_once(name: str) -> None:
    """Make differentiating through a backward operation an error: its formula takes the statistics as constants."""

    def refuse(ctx: Any, *grads: Tensor | None) -> None:
        raise NotImplementedError("fused operations have no second derivative; use fastresunet.ResUNetPP for it")

    differentiable(name, lambda ctx, arguments, results: None, refuse)
