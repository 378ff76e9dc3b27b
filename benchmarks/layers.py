"""The fused operations of the network as it calls them, each with the plain PyTorch that computes the same.

The calls of a training step or an evaluation are recorded with tensors that have shapes and no memory; equal ones are
kept once. What they are given is drawn anew, from a fixed seed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from benchmarks.host_time import replace_everywhere
from benchmarks.work import Mode, Work
from fastresunet import ops
from fastresunet.model import FastResUNetPP
from fastresunet.ops import Backend, Branch, Moments, Source
from tests.ops import plain


@dataclass(frozen=True)
class Shape:
    """A tensor without its numbers; ``image`` is (N, C, H, W) of the features, which are in their precision."""

    sizes: tuple[int, ...]
    dtype: torch.dtype
    image: bool


@dataclass(frozen=True)
class LayerSubject:
    """One operation of the network at its sizes.

    Attributes:
        name: parameter name of its (first) weight without "weight", and the operation unless that is a convolution.
        operation: function of ``fastresunet.ops``.
        options: its arguments by name, tensors as ``Shape``.
        count: equal calls in one step.
    """

    name: str
    operation: str
    options: tuple[tuple[str, Any], ...]
    count: int = 1

    def work(
        self,
        fast: bool,
        mode: Mode,
        features: torch.dtype,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        backend: Backend = "auto",
        transform: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
        perturbed: tuple[float, int] = (0.0, 0),
    ) -> Work:
        """Return the computation.

        Args:
            fast: the fused operation, or its twin in plain PyTorch.
            mode: gradients are taken in training; the calls are those that the network makes in it.
            features: dtype of feature maps; drawn numbers are rounded to it even if ``dtype`` is float64.
            device: where to compute.
            dtype: of everything else, and of the features too if it is float64.
            backend: of the fused operation.
            transform: changes the function, for example compiles it.
            perturbed: relative change of the features and its seed, so that rounding falls differently.
        """
        draw = _Draw(features, device, dtype, gradients=mode != "evaluation", perturbed=perturbed)
        options = {name: draw(value, name) for name, value in self.options}
        function = partial(_fused, self.operation, backend) if fast else TWINS[self.operation]
        leaves = draw.leaves if mode == "training" else []
        return Work(partial(transform(function), **options), (), leaves, device)


class _Draw:
    """Draws tensors in place of shapes, inside tuples, lists and dataclasses too.

    Args:
        features: dtype that feature maps are rounded to.
        device: of the tensors.
        dtype: of all tensors but feature maps; float64 for those too.
        gradients: whether the tensors are leaves.
        perturbed: relative change of the features, and its seed.
    """

    def __init__(
        self,
        features: torch.dtype,
        device: torch.device,
        dtype: torch.dtype,
        gradients: bool,
        perturbed: tuple[float, int],
    ) -> None:
        self.leaves: list[Tensor] = []
        self._features, self._device, self._dtype, self._gradients = features, device, dtype, gradients
        self._generator = torch.Generator().manual_seed(3)
        self._change, seed = perturbed
        self._changes = torch.Generator().manual_seed(seed)

    def __call__(self, value: Any, name: str = "") -> Any:
        """Return ``value``, an argument called ``name``, with tensors."""
        if isinstance(value, Shape):
            return self._tensor(value, name)
        if isinstance(value, Moments):
            return Moments(*(self(x, key) for key, x in zip(Moments._fields, value, strict=True)))
        if isinstance(value, list | tuple):
            return type(value)(self(x, name) for x in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            drawn = {f.name: self(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
            return type(value)(**drawn)
        # The dtype of vectors is an argument of some operations.
        return self._dtype if isinstance(value, torch.dtype) else value

    def _tensor(self, shape: Shape, name: str) -> Tensor:
        x = torch.randn(shape.sizes, generator=self._generator)
        if shape.image:
            if self._change:
                x = x * (1 + self._change * torch.randn(x.shape, generator=self._changes))
            x = x.to(self._features).contiguous(memory_format=torch.channels_last)
        elif len(shape.sizes) == 4:
            x = x / x[0].numel() ** 0.5
        elif name in _POSITIVE:
            x = x.abs() + 0.5
        keeps_precision = shape.image and self._dtype != torch.float64
        x = x.to(self._device, self._features if keeps_precision else self._dtype)
        if self._gradients and not name.startswith("running"):
            self.leaves.append(x.requires_grad_())
        return x


def _fused(operation: str, backend: Backend, **options: Any) -> Any:
    result = getattr(ops, operation)(**options, backend=backend)
    # Its twin returns the sum alone, without the statistics that update the running ones.
    return result[0] if operation == "conv_norm_sum" else result


def _excitation(mean: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    return torch.sigmoid(F.linear(F.relu(F.linear(mean, weight1)), weight2))


# ``batch_affine`` only exists fused: its twin is the same vector arithmetic as separate PyTorch operations.
TWINS: dict[str, Callable[..., Any]] = {
    "conv": plain.conv,
    "conv_norm_sum": plain.conv_norm_sum,
    "excitation": _excitation,
    "batch_affine": partial(ops.batch_affine, backend="torch"),
}
_POSITIVE = ("running", "running_var", "m2", "gate", "gate_scale")
DEFAULT_FILTERS = (16, 32, 64, 128, 256)


@lru_cache(maxsize=64)
def layers(
    training: bool,
    batch: int,
    size: int,
    filters: tuple[int, ...] = DEFAULT_FILTERS,
    rates: tuple[int, ...] = (1, 6, 12, 18),
) -> list[LayerSubject]:
    """Return the distinct operations of a training step or an evaluation, in the order of the network.

    Args:
        training: whether BatchNorms use the batch's statistics.
        batch: images.
        size: their height and width in pixels.
        filters: channels, see ``ResUNetPP``.
        rates: dilations of the ASPPs.
    """
    with FakeTensorMode(), torch.set_grad_enabled(training):
        model = FastResUNetPP(filters=filters, aspp_rates=rates, backend="torch").train(training)
        recorder = _Recorder({id(parameter): name for name, parameter in model.named_parameters()})
        with ExitStack() as stack:
            for operation in TWINS:
                original = getattr(ops, operation)
                replace_everywhere(stack, "fastresunet", original, partial(recorder.see, operation, original))
            model(torch.empty(batch, 3, size, size))
    return list(recorder.found.values())


class _Recorder:
    """Collects the calls of operations.

    Args:
        names: of the parameters, by their identity.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.found: dict[str, LayerSubject] = {}
        self._names = names

    def see(self, operation: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Note a call and make it."""
        bound = inspect.signature(function).bind(*arguments, **named).arguments
        options = tuple((name, self._shapes(value)) for name, value in bound.items() if name != "backend")
        key = repr((operation, options))
        known = self.found.get(key)
        if known is None:
            known = LayerSubject(self._name(operation, bound), operation, options, count=0)
        self.found[key] = dataclasses.replace(known, count=known.count + 1)
        return function(*arguments, **named)

    def _name(self, operation: str, bound: dict[str, Any]) -> str:
        names = [self._names[id(x)] for x in _tensors(list(bound.values())) if id(x) in self._names]
        first = names[0].rpartition(".")[0]
        return first if operation == "conv" else f"{first} {operation}"

    def _shapes(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return Shape(tuple(value.shape), value.dtype, value.ndim == 4 and id(value) not in self._names)
        if isinstance(value, Moments):
            return Moments(*map(self._shapes, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self._shapes, value))
        if isinstance(value, Source | Branch):
            return type(value)(*(self._shapes(getattr(value, f.name)) for f in dataclasses.fields(value)))
        return value


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in lists, tuples and dataclasses."""
    if isinstance(value, Source | Branch):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, list | tuple):
        return [tensor for inner in value for tensor in _tensors(inner)]
    return [value] if isinstance(value, Tensor) else []
