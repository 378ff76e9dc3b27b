"""Registration of the fused operations with PyTorch: schema, implementation and shape function in one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

LIBRARY = Library("fastresunet", "DEF")


def register(schema: str, implementation: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    """Register an operation for every device and return it.

    Args:
        schema: PyTorch operator schema, ``name(arguments) -> results``.
        implementation: computes the results; runs with autocast off, since the callers have cast the operands.
        shapes: returns empty tensors of the results' shapes, dtypes and layouts (for ``torch.compile`` and export).

    Returns:
        The operation, as found under ``torch.ops.fastresunet``.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

    @functools.wraps(implementation)
    def without_autocast(*args: Any) -> Any:
        with torch._C._DisableAutocast():
            return implementation(*args)

    LIBRARY.impl(name, without_autocast, "CompositeExplicitAutograd")
    register_fake(f"fastresunet::{name}", shapes, lib=LIBRARY)
    operation: Callable[..., Any] = getattr(torch.ops.fastresunet, name).default
    return operation


def operand_dtype(data: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype a convolution computes in: autocast's where it is on, that of its operands otherwise.

    Raises:
        TypeError: without autocast, the operands have different dtypes.
    """
    device = data.device.type
    if weight.dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    if data.dtype != weight.dtype:
        raise TypeError(f"data and weight must have one dtype without autocast, got {data.dtype} and {weight.dtype}")
    return weight.dtype


def differentiable_once(name: str) -> None:
    """Make differentiating through a backward operation an error: its formula takes the statistics as constants."""

    def refuse(ctx: Any, *grads: Tensor | None) -> None:
        raise NotImplementedError("fused operations have no second derivative; use fastresunet.ResUNetPP for it")

    register_autograd(f"fastresunet::{name}", refuse, lib=LIBRARY)
