"""Registration of the fused operations with PyTorch: schema, implementation and shapes; gradient; autocast.

An operation is found under ``torch.ops.fastresunet``, where compilers, exporters and tracers see it. In plain eager
mode it is called directly: PyTorch's dispatcher would turn its dozens of tensors into its own lists and back for
autocast, for autograd and for the implementation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fastresunet.ops.autocast import autocast_dtype
from fastresunet.ops.backend import repeating
from fastresunet.ops.layout import channels_last
from fastresunet.ops.tensors import TensorPlaces

LIBRARY = Library("fastresunet", "DEF")


@dataclass
class _Operation:
    """An operation.

    Attributes:
        registered: as PyTorch's dispatcher calls it.
        implementation: computes the results, with autocast off.
        images: which arguments autocast casts: images, or lists of them.
        node: its class in autograd's graph.
    """

    registered: Callable[..., Any]
    implementation: Callable[..., Any]
    images: tuple[int, ...] = ()
    node: Any = None

    def call(self, arguments: Sequence[Any]) -> Any:
        """Call it directly where only autocast and autograd have a say, otherwise through the dispatcher."""
        places = TensorPlaces(arguments)
        tensors = places.flattened(arguments)
        if not is_plain_eager(tensors):
            return self.registered(*arguments)
        dtype = autocast_dtype(tensors[0].device.type) if self.images else None
        if dtype is not None:
            arguments = self.cast(arguments, dtype)
            tensors = places.flattened(arguments)
        return self.with_gradient(arguments, places, tensors, self.implementation)

    def call_below_autograd(self, *arguments: Any) -> Any:
        """Let the dispatcher compute the results, autograd left out."""
        with torch._C._AutoDispatchBelowAutograd():
            return self.registered(*arguments)

    def cast(self, arguments: Sequence[Any], dtype: torch.dtype) -> list[Any]:
        """Return the arguments with the images in another dtype."""
        return [_cast(value, dtype) if place in self.images else value for place, value in enumerate(arguments)]

    def with_gradient(
        self,
        arguments: Sequence[Any],
        places: TensorPlaces,
        tensors: Sequence[Tensor | None],
        compute: Callable[..., Any],
    ) -> Any:
        """Return the results of ``compute``, with a node in autograd's graph where a gradient may be wanted.

        Args:
            arguments: of the operation.
            places: of tensors in them.
            tensors: in them.
            compute: returns the results.
        """
        if not torch.is_grad_enabled() or not any(x is not None and x.requires_grad for x in tensors):
            return compute(*arguments)
        returned, *results = self.node.apply(arguments, places, compute, *tensors)
        return results[0] if len(results) == 1 else tuple(returned.grouped(results))


_operations: dict[str, _Operation] = {}


def register(schema: str, implementation: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    """Register an operation for every device and return it; ``differentiable`` must follow.

    Args:
        schema: PyTorch operator schema, ``name(arguments) -> results``.
        implementation: computes the results; runs with autocast off, see ``autocasting``.
        shapes: returns empty tensors of the results' shapes, dtypes and layouts (for ``torch.compile`` and export).

    Returns:
        The operation, to be called with all arguments by position.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    # The backend is the last argument of those that may have kernels.
    computed = repeating(implementation) if "str backend)" in schema else implementation

    @functools.wraps(implementation)
    def without_autocast(*arguments: Any) -> Any:
        with torch._C._DisableAutocast():
            return computed(*arguments)

    LIBRARY.impl(name, without_autocast, "CompositeExplicitAutograd")
    register_fake(f"fastresunet::{name}", shapes, lib=LIBRARY)
    registered: Callable[..., Any] = getattr(torch.ops.fastresunet, name).default
    operation = _operations[name] = _Operation(registered, without_autocast)

    def call(*arguments: Any) -> Any:
        return registered(*arguments) if torch.compiler.is_compiling() else operation.call(arguments)

    return call


_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def is_plain_eager(tensors: Sequence[Tensor | None]) -> bool:
    """Return whether nobody but autocast and autograd has a say in the dispatch of an operation on ``tensors``."""
    mode = _get_current_dispatch_mode()
    if mode is not None and not getattr(mode, "sees_inside_operations", False):
        return False
    if torch._C._len_torch_function_stack() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if torch._C._get_tracing_state() is not None or torch._C._autograd._profiler_enabled():
        return False
    # Not isinstance: a subclass has its own ways.
    return all(type(x) in _PLAIN for x in tensors) and tensors[0] is not None and not tensors[0].is_meta


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
    operation = _operations[name]
    operation.images = images

    def register_for(device: str) -> None:
        key = f"Autocast{device.upper()}"
        without = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

        def with_autocast(*arguments: Any) -> Any:
            cast = operation.cast(arguments, torch.get_autocast_dtype(device))
            with torch._C._ExcludeDispatchKeyGuard(without):
                return operation.registered(*cast)

        LIBRARY.impl(name, with_autocast, key)

    for device in ("cpu", "cuda"):
        register_for(device)


def _cast(image: Any, dtype: torch.dtype) -> Any:
    if isinstance(image, list):
        return [_cast(one, dtype) for one in image]
    return image if image is None or image.dtype == torch.float64 else channels_last(image.to(dtype))


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
    operation = _operations[name]

    class Gradient(torch.autograd.Function):
        """The operation's node in the graph."""

        @staticmethod
        def forward(
            ctx: Any, arguments: Sequence[Any], given: TensorPlaces, compute: Callable[..., Any], *_: Tensor | None
        ) -> tuple[Any, ...]:
            results = compute(*arguments)
            ctx.given, ctx.needed = given, given.grouped(ctx.needs_input_grad[3:])
            setup_context(ctx, arguments, results)
            results = (results,) if isinstance(results, Tensor) else results
            returned = TensorPlaces(results)
            return returned, *returned.flattened(results)

        @staticmethod
        def backward(ctx: Any, _: None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            return None, None, None, *ctx.given.flattened(backward(ctx, *grads))

    # Under this name the operation stands in the graph.
    operation.node = type(f"fastresunet_{name}", (Gradient,), {})

    def with_gradient(*arguments: Any) -> Any:
        places = TensorPlaces(arguments)
        return operation.with_gradient(arguments, places, places.flattened(arguments), operation.call_below_autograd)

    LIBRARY.impl(name, with_gradient, "Autograd")


def differentiable_once(name: str) -> None:
    """Make differentiating through a backward operation an error: its formula takes the statistics as constants."""

    def refuse(ctx: Any, *grads: Tensor | None) -> None:
        raise NotImplementedError("fused operations have no second derivative; use fastresunet.ResUNetPP for it")

    differentiable(name, lambda ctx, arguments, results: None, refuse)
