"""Record every kernel launch of a network, Triton's and those of ordinary PyTorch operations, without running Triton's.

Triton launches are seen, and kept from running, by ``fastresunet_kernels.launch.observed``; operations by a dispatch
mode, those inside the custom operations included. With fake tensors, which have a shape and no memory, nothing at all
is computed, and any size is counted in a second on any machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from fastresunet_kernels import interpreter, launch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.aten_traffic import aten_cost, storage_key, total_bytes
from fastresunet.ops.backend import Call, observed_calls

OUTSIDE = "outside the blocks"


@dataclass(frozen=True)
class Record:
    """One Triton launch, or one ordinary operation.

    Attributes:
        kernel: name of the kernel, or of the operation with its namespace.
        layer: parameter name of the convolution it belongs to, "" between convolutions.
        block: the network's direct submodule it belongs to, or ``OUTSIDE``.
        backward: whether it is part of the backward pass.
        launches: kernel launches; more than one for a few operations, see ``aten_traffic``.
        read: bytes read, each operand once a launch.
        written: bytes written.
        flop: floating-point operations of products, two for each multiply-add, those outside the image included.
    """

    kernel: str
    layer: str
    block: str
    backward: bool
    launches: int
    read: int
    written: int
    flop: int


@contextmanager
def recording(model: nn.Module | None = None) -> Iterator[list[Record]]:
    """Record all launches inside the context, on CPU tensors; what Triton kernels would write stays uninitialised.

    Args:
        model: the network that runs, for the names of layers and blocks.

    Yields:
        A list that the records are appended to.
    """
    recorder = _Recorder(model)
    hooks = (
        module_hooks.register_module_forward_pre_hook(recorder.enter_module),
        module_hooks.register_module_forward_hook(recorder.leave_module),
    )
    try:
        with (
            mock.patch.object(interpreter, "runs_on_the_cpu", return_value=True),
            launch.observed(recorder.see_launch),
            observed_calls(recorder.see_call),
            recorder,
        ):
            yield recorder.records
    finally:
        for hook in hooks:
            hook.remove()


class _Recorder(TorchDispatchMode):
    """Sees operations as they are dispatched, forward and backward, and is told about Triton launches."""

    def __init__(self, model: nn.Module | None) -> None:
        super().__init__()
        self.records: list[Record] = []
        parameters = {} if model is None else dict(model.named_parameters())
        self._names = {storage_key(parameter): name for name, parameter in parameters.items()}
        self._blocks = {} if model is None else {child: name for name, child in model.named_children()}
        self._layer = ""
        # Autograd numbers its nodes in the order of the forward pass: the first number of each stretch, and its block.
        self._first_numbers = [0]
        self._stretches = [OUTSIDE]

    def enter_module(self, module: nn.Module, args: Any) -> None:
        """Note that what follows belongs to a block; called before each module's forward pass."""
        if module in self._blocks:
            self._start_stretch(self._blocks[module])

    def leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note that a block has ended; called after each module's forward pass."""
        if module in self._blocks:
            self._start_stretch(OUTSIDE)

    def see_launch(self, seen: Any) -> bool:
        """Record a Triton launch, and keep it from running."""
        read: list[Any] = []
        written: list[Any] = []
        for name, argument in zip(seen.kernel.arg_names, seen.arguments, strict=False):
            (written if name.endswith("_out") else read).append(argument)
        self._record(seen.kernel.__name__, 1, total_bytes(read), total_bytes(written), 2 * seen.multiply_adds)
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record an ordinary operation; run the implementation of a custom or composite one with the mode on."""
        kwargs = kwargs or {}
        if func.namespace == "fastresunet":
            result = self._implementation(func, args, kwargs)
            self._layer = ""
            return result
        if func.namespace != "aten":  # queries, such as that of a fake tensor's device
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            # Below autograd, as in a custom operation, ``contiguous`` and its like arrive whole.
            return self._implementation(func, args, kwargs)
        result = func(*args, **kwargs)
        cost = aten_cost(func, args, kwargs, result)
        if cost is not None:
            formula = flop_registry.get(func.overloadpacket)
            flop = 0 if formula is None else int(formula(*args, **kwargs, out_val=result))
            self._record(str(func.overloadpacket), cost.launches, cost.read, cost.written, flop)
        return result

    def _implementation(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self:
            return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **kwargs)

    def _record(self, kernel: str, launches: int, read: int, written: int, flop: int) -> None:
        block, backward = self._place()
        self.records.append(Record(kernel, self._layer, block, backward, launches, read, written, flop))

    def _start_stretch(self, block: str) -> None:
        self._first_numbers.append(torch._C._autograd._get_sequence_nr())
        self._stretches.append(block)

    def _place(self) -> tuple[str, bool]:
        """Return the block that computes now, and whether this is the backward pass."""
        node: Any = torch._C._current_autograd_node()
        name = self._layer
        if node is not None and hasattr(node, "variable"):  # accumulates the gradient of a parameter
            name = self._names.get(storage_key(node.variable), "")
        if name:
            return name.partition(".")[0], node is not None
        if node is None:
            return self._stretches[-1], False
        return self._stretches[bisect_right(self._first_numbers, node._sequence_nr()) - 1], True

    def see_call(self, call: Call) -> None:
        """Note that what follows belongs to the convolutions whose weights an operation has among its operands."""
        weights = [tensor for tensor in tree_leaves(call.operands) if isinstance(tensor, Tensor) and tensor.ndim == 4]
        names = [self._names.get(storage_key(weight), "").removesuffix(".weight") for weight in weights]
        names = [name for name in names if name]
        self._layer = (
            ""
            if not names
            else names[0]
            if call.name == "conv_gradients" or len(names) == 1
            else (f"{names[0]} to {names[-1]}")
        )
