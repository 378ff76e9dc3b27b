"""What an ordinary PyTorch operation costs on a GPU: kernel launches, bytes read and bytes written, from its schema.

An operation is one launch that reads each of its tensors once and writes each of its results once, except that

* views and the allocation of memory launch nothing, nor does what writes nothing;
* fills and copies do not read the tensor that they overwrite, and ``zeros_like`` and its kin read nothing;
* a convolution's bias is a launch of its own, over its output in place, as eager PyTorch with cuDNN does it, and its
  gradient is one launch for each of input, weight and bias;
* BatchNorm in training is two launches, statistics and normalisation, that both read the features, and so is its
  gradient: sums, then the gradient of the features;
* the gradient of maximum pooling reads the positions, not the features.

Repeated elements of an expanded tensor count once, and so does a tensor given twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, ops
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

_aten = ops.aten
_ALLOCATIONS = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided}
# A view without being one in its schema.
_VIEWS = {_aten._unsafe_view}
_FILLS = {
    *(_aten.zeros, _aten.zeros_like, _aten.new_zeros, _aten.zero_),
    *(_aten.ones, _aten.ones_like, _aten.new_ones),
    *(_aten.full, _aten.full_like, _aten.new_full, _aten.fill_),
}
# Arguments that are there for their shape, or to be overwritten.
_UNREAD = {_aten.copy_: "self", _aten.max_pool2d_with_indices_backward: "self"}


@dataclass(frozen=True)
class Cost:
    """Kernel launches of an operation and the bytes they read and write."""

    launches: int
    read: int
    written: int


def storage_key(tensor: Tensor) -> int:
    """Return what identifies the storage of ``tensor`` as long as it lives, fake or not."""
    return tensor.untyped_storage()._cdata


def total_bytes(*values: Any) -> int:
    """Return the bytes of all distinct tensors in ``values``; repeated elements of expanded ones count once."""
    sizes: dict[tuple[int, int], int] = {}
    for tensor in tree_leaves(values):
        if isinstance(tensor, Tensor) and tensor.numel() > 0:
            elements = prod(size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step != 0)
            place = storage_key(tensor), int(tensor.storage_offset())
            sizes[place] = max(sizes.get(place, 0), elements * tensor.element_size())
    return sum(sizes.values())


def aten_cost(operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Cost | None:
    """Return the cost of one call, or ``None`` if it launches nothing.

    Args:
        operation: the ``torch.ops.aten`` overload that was called.
        args: its positional arguments.
        kwargs: its other arguments.
        result: what it returned.
    """
    packet = operation.overloadpacket
    if operation.is_view or packet in _ALLOCATIONS or packet in _VIEWS:
        return None
    arguments = _by_name(operation, args, kwargs)
    written = total_bytes(result, [arguments.get(name) for name in _changed(operation)])
    if written == 0:
        return None
    if packet is _aten.convolution:
        return _convolution(arguments, result)
    if packet is _aten.convolution_backward:
        return _convolution_backward(arguments, result)
    unread = _UNREAD.get(packet)
    read = 0 if packet in _FILLS else total_bytes([value for name, value in arguments.items() if name != unread])
    launches = 1
    if packet is _aten.native_batch_norm and arguments["training"]:
        launches, read = 2, read + total_bytes(arguments["input"])
    if packet is _aten.native_batch_norm_backward:
        launches, read = 2, read + total_bytes(arguments["grad_out"], arguments["input"])
    return Cost(launches, read, written)


def _by_name(operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in operation._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _changed(operation: OpOverload) -> list[str]:
    """Return the names of the arguments that the operation writes to."""
    return [
        argument.name
        for argument in operation._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _convolution(arguments: dict[str, Any], result: Tensor) -> Cost:
    image, weight, bias = (arguments[name] for name in ("input", "weight", "bias"))
    product, output = total_bytes(image, weight), total_bytes(result)
    if bias is None:
        return Cost(1, product, output)
    return Cost(2, product + total_bytes(result, bias), 2 * output)


def _convolution_backward(arguments: dict[str, Any], result: tuple[Tensor | None, ...]) -> Cost:
    grad, image, weight = (arguments[name] for name in ("grad_output", "input", "weight"))
    operands = ((grad, weight), (grad, image), (grad,))
    reads = [total_bytes(read) for read, gradient in zip(operands, result, strict=True) if gradient is not None]
    return Cost(len(reads), sum(reads), total_bytes(result))
