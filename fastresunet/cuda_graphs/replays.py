"""Graphs by shape: when to compute eagerly, when to capture, when to replay, when to forget."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastresunet.cuda_graphs import capture
from fastresunet.cuda_graphs.baked import Baked

# Shape, dtype and memory format of each input.
Signature: TypeAlias = tuple[tuple[torch.Size, torch.dtype, torch.memory_format], ...]


@dataclass(frozen=True)
class Computation:
    """What is computed once a call.

    Attributes:
        compute: maps inputs on ``device`` to a tensor; part of it may happen in place, in parameters and buffers.
        device: where.
        bake: returns what a graph of it has built in now.
        variant: tells computations apart that one owner makes of equal inputs.
    """

    compute: Callable[..., Tensor]
    device: torch.device
    bake: Callable[[], Baked]
    variant: Hashable = None


class Replays:
    """Computes what it is given: eagerly where a shape is new, from a graph captured then, and replayed from then on.

    The eager computation warms up for the capture: kernels are compiled, states of optimisers made. As it counts like
    any other, nothing has to be restored. A capture computes nothing, the replay after it does.

    Graphs are forgotten when what they have built in has changed, see ``Baked``; the next call is eager again.

    Args:
        max_shapes: shapes of inputs to capture; more are computed eagerly.
    """

    def __init__(self, max_shapes: int) -> None:
        if isinstance(max_shapes, bool) or not isinstance(max_shapes, int) or max_shapes < 0:
            raise ValueError(f"max_shapes must be an integer of at least 0, got {max_shapes!r}")
        self.max_shapes = max_shapes
        self._warned = False
        self._device: torch.device | None = None
        self._capturer: capture.Capturer | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all graphs and free their memory."""
        self._baked: Baked | None = None
        self._graphs: dict[tuple[Hashable, Signature], capture.Capture] = {}
        self._inputs: dict[Signature, list[Tensor]] = {}
        self._seen: dict[Signature, set[Hashable]] = {}

    @property
    def captured(self) -> list[tuple[int, ...]]:
        """Shapes of the first input that are replayed."""
        return list(dict.fromkeys(tuple(signature[0][0]) for _, signature in self._graphs))

    def captures_on(self, device: torch.device) -> bool:
        """Return whether computations on a device are captured."""
        if device != self._device:
            self.reset()
            self._device, self._capturer = device, capture.capturer_for(device)
        return self._capturer is not None

    def __call__(self, computation: Computation, inputs: Sequence[Tensor]) -> Tensor:
        """Return the result of a computation, in memory that later calls leave alone.

        Args:
            computation: what to compute.
            inputs: tensors on any device.

        Raises:
            CaptureError: the computation cannot be captured.
        """
        device = computation.device
        if not self.captures_on(device):
            return computation.compute(*_moved(inputs, device))
        assert self._capturer is not None
        with self._capturer.turn():
            return self._by_graph(self._capturer, computation, inputs)

    def _by_graph(self, capturer: capture.Capturer, computation: Computation, inputs: Sequence[Tensor]) -> Tensor:
        if self._baked is not None and not self._baked.holds():
            self.reset()
        signature = _signature(inputs)
        key = (computation.variant, signature)
        if key in self._graphs:
            return self._replay(key, inputs)
        if computation.variant in self._seen.get(signature, ()):
            self._capture(capturer, computation, signature)
            return self._replay(key, inputs)
        result = capturer.run(lambda: computation.compute(*_moved(inputs, computation.device)))
        if self._baked is None or not self._baked.holds():  # the first computation makes what others change in place
            self._graphs.clear()
            self._baked = computation.bake()
        self._remember(signature, computation.variant)
        return result

    def _replay(self, key: tuple[Hashable, Signature], inputs: Sequence[Tensor]) -> Tensor:
        graph = self._graphs[key]
        for static, given in zip(self._inputs[key[1]], inputs, strict=True):
            static.copy_(given.detach(), non_blocking=True)
        graph.replay()
        return graph.result.clone()

    def _capture(self, capturer: capture.Capturer, computation: Computation, signature: Signature) -> None:
        if signature not in self._inputs:
            self._inputs[signature] = [
                torch.empty(shape, dtype=dtype, memory_format=memory_format, device=computation.device)
                for shape, dtype, memory_format in signature
            ]
        inputs = self._inputs[signature]
        assert self._baked is not None
        restore = self._baked.restorer()
        try:
            graph = capture.capture(capturer, lambda: computation.compute(*inputs))
        except BaseException:
            restore()
            raise
        if not self._baked.holds():
            restore()
            self.reset()
            raise capture.CaptureError(
                "this computation cannot be captured in a CUDA graph: it puts new tensors in place of parameters, "
                "buffers or states of the optimiser, which a replay would not do. Let it change them in place."
            )
        self._graphs[computation.variant, signature] = graph

    def _remember(self, signature: Signature, variant: Hashable) -> None:
        if signature in self._seen or len(self._seen) < self.max_shapes:
            self._seen.setdefault(signature, set()).add(variant)
        elif self.max_shapes and not self._warned:
            self._warned = True
            shapes = ", ".join("x".join(map(str, shape)) for shape in (tuple(seen[0][0]) for seen in self._seen))
            warnings.warn(
                f"CUDA graphs are kept for max_shapes={self.max_shapes} shapes, which are {shapes}; others, such as "
                f"{'x'.join(map(str, signature[0][0]))}, are computed eagerly. Raise max_shapes, or use fewer shapes.",
                stacklevel=5,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # A graph belongs to the tensors it was captured with: copies begin without any.
        return Replays, (self.max_shapes,)


def _moved(inputs: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    return [x.detach().to(device, non_blocking=True) for x in inputs]


def _signature(inputs: Sequence[Tensor]) -> Signature:
    return tuple((x.shape, x.dtype, _memory_format(x)) for x in inputs)


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
