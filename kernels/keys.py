"""The names under which tuned choices are kept: what a layer's or an operation's speed depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .config import Layer, arithmetic
from .rounding import next_power_of_2


def layer_key(layer: Layer) -> str:
    """Return the key of a layer; its pixels are rounded up to a power of 2."""
    return (
        f"{layer.kind} {_dtype(layer.dtype)} {layer.inputs}->{layer.outputs} {layer.kernel_size}x{layer.kernel_size} "
        f"stride {layer.stride} dilation {layer.dilation} upsample {int(layer.upsample)} pool {int(layer.pool)} "
        f"pixels {next_power_of_2(layer.pixels)}"
    )


def operation_key(name: str, operands: Sequence[Any]) -> str:
    """Return the key of a call of an operation: shapes, dtypes and options.

    Pixels and other counts are rounded up to a power of 2; numbers that no shape depends on are left out.

    Args:
        name: of the operation.
        operands: its arguments without the backend.
    """
    return " ".join([name, *(_describe(operand) for operand in operands if not isinstance(operand, float))])


def _describe(operand: Any) -> str:
    if isinstance(operand, Tensor):
        shape = list(operand.shape)
        if len(shape) == 4:
            shape[2:] = [next_power_of_2(shape[2] * shape[3])]
        return f"{_dtype(operand.dtype)}:{'x'.join(map(str, shape))}"
    if isinstance(operand, list | tuple):
        return f"[{','.join(_describe(element) for element in operand if not isinstance(element, float))}]"
    if isinstance(operand, torch.dtype):
        return _dtype(operand)
    if operand is None or isinstance(operand, bool):
        return {None: "-", False: "no", True: "yes"}[operand]
    return str(next_power_of_2(operand))


def _dtype(dtype: torch.dtype) -> str:
    """Return the name of a dtype; that of float32 says how products are computed."""
    name = str(dtype).removeprefix("torch.")
    return f"{name}-tf32" if arithmetic(dtype)["PRECISION"] == "tf32" else name
