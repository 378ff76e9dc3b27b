"""The fused operations of the network as it calls them, each with the plain PyTorch that computes the same.

The calls of a training step or an evaluation are recorded with tensors that have shapes and no memory; equal ones are
kept once. What they are given is drawn anew, from a fixed seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from benchmarks.aten_traffic import storage_key
from benchmarks.recording import recording
from benchmarks.work import Mode, Work
from fastresunet import ops
from fastresunet.model import FastResUNetPP
from fastresunet.ops import Backend, Branch, Moments, Source
from fastresunet.ops.backend import Call, observed_calls
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
    """Return the distinct operations of a training step's forward pass or an evaluation, in the order of the network.

    Args:
        training: whether BatchNorms use the batch's statistics.
        batch: images.
        size: their height and width in pixels.
        filters: channels, see ``ResUNetPP``.
        rates: dilations of the ASPPs.
    """
    with FakeTensorMode(), torch.set_grad_enabled(training):
        model = FastResUNetPP(filters=filters, aspp_rates=rates, backend="triton").train(training)
        recorder = _Recorder({storage_key(parameter): name for name, parameter in model.named_parameters()})
        # Recording runs what an operation consists of, where fake tensors alone would only ask for its shapes.
        with recording(model), observed_calls(recorder.see):
            model(torch.empty(batch, 3, size, size))
    return list(recorder.found.values())


class _Recorder:
    """Collects the calls of operations, those inside the operations of whole blocks included.

    Args:
        names: of the parameters, by their storage.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.found: dict[str, LayerSubject] = {}
        self._names = names

    def see(self, call: Call) -> None:
        """Note a call."""
        for operation, given in _PARTS.get(call.name, lambda *operands: [(call.name, operands)])(*call.operands):
            if operation in TWINS:
                self._note(operation, given)

    def _note(self, operation: str, given: Sequence[Any]) -> None:
        schema = getattr(torch.ops.fastresunet, operation).default._schema
        # Blocks hand on packed weights after the other operands; by itself an operation packs its own.
        names = [argument.name for argument in schema.arguments if argument.name != "backend"]
        operands = dict(zip(names, given, strict=False))
        name = next(self._names[key] for key in map(storage_key, _tensors(operands)) if key in self._names)
        name = name.rpartition(".")[0] if operation == "conv" else f"{name.rpartition('.')[0]} {operation}"
        options = tuple(_ARGUMENTS[operation](_shapes(operands, self._names)).items())
        key = repr((operation, options))
        known = self.found.get(key) or LayerSubject(name, operation, options, count=0)
        self.found[key] = dataclasses.replace(known, count=known.count + 1)


_Parts = list[tuple[str, Sequence[Any]]]


def _convolution(operands: Sequence[Any], statistics: bool) -> tuple[str, Sequence[Any]]:
    """Return the convolution of a joint operation, whose operands up to the residual these are."""
    *read, residual = operands
    return "conv", (*read, 1, residual, None, None, False, statistics)


def _conv_batch_affine_parts(*operands: Any) -> _Parts:
    convolution, norm = operands[:8], operands[8:13]
    data, weight, stride = operands[0][0], operands[4], operands[6]
    samples, channels, dtype = len(data), len(weight), ops.accumulation_dtype(data.dtype)
    mean = m2 = data.new_empty(samples, channels, dtype=dtype) if norm[3] is None else None
    pixels = data.shape[2] * data.shape[3] // stride**2
    moments = (mean, m2, None, pixels, None, None, None, 1)
    batch_affine = (*moments, samples, channels, *norm, dtype)
    return [_convolution(convolution, norm[3] is None), ("batch_affine", batch_affine)]


def _conv_excitation_parts(*operands: Any) -> _Parts:
    data, weight = operands[0][0], operands[4]
    mean = data.new_empty(len(data), len(weight), dtype=ops.accumulation_dtype(data.dtype))
    return [_convolution(operands[:8], True), ("excitation", (mean, *operands[8:10]))]


# Operations that blocks compute jointly, as those that have functions of their own.
_PARTS: dict[str, Callable[..., _Parts]] = {
    "conv_batch_affine": _conv_batch_affine_parts,
    "conv_excitation": _conv_excitation_parts,
}


def _shapes(value: Any, parameters: Collection[int]) -> Any:
    """Return ``value`` with shapes for tensors; those without elements stand for ``None``."""
    if isinstance(value, dict):
        return {key: _shapes(inner, parameters) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shapes(inner, parameters) for inner in value]
    if isinstance(value, Tensor):
        image = value.ndim == 4 and storage_key(value) not in parameters
        return Shape(tuple(value.shape), value.dtype, image) if value.numel() else None
    return value


def _tensors(operands: dict[str, Any]) -> list[Tensor]:
    return [x for x in tree_leaves(operands) if isinstance(x, Tensor)]


def _sources(given: dict[str, Any]) -> list[Source]:
    fields = (given.pop(name) for name in ("data", "affine", "relu", "upsample"))
    return [Source(*values) for values in zip(*fields, strict=True)]


def _conv_arguments(given: dict[str, Any]) -> dict[str, Any]:
    return {"sources": _sources(given), **given}


def _conv_norm_sum_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``ops.conv_norm_sum``, whose operation has the vectors of all branches in one tensor."""

    def of_one(vectors: Any) -> Any:
        return None if vectors is None else dataclasses.replace(vectors, sizes=vectors.sizes[1:])

    bias, gamma, beta = (of_one(given[name]) for name in ("bias", "gamma", "beta"))
    mean, variance = of_one(given["running_mean"]), of_one(given["running_var"])
    columns = (given[name] for name in ("weight", "dilation", "eps"))
    branches = [
        Branch(weight, bias, dilation, gamma, beta, eps, mean, variance)
        for weight, dilation, eps in zip(*columns, strict=True)
    ]
    return {"sources": _sources(given), "branches": branches, "stride": given["stride"]}


def _batch_affine_arguments(given: dict[str, Any]) -> dict[str, Any]:
    maps = [Moments(*(given[name] for name in ("mean", "m2", "gate", "pixels")))]
    channels, total = given["channels"], given["gamma"].sizes[0]
    if total > channels:
        maps.append(Moments(*(given[name] for name in ("mean2", "m2_2", "gate2", "pixels2"))))
    running = (given["running_mean"], given["running_var"])
    return {
        "maps": maps,
        "channels": [channels, total - channels][: len(maps)],
        **{name: given[name] for name in ("samples", "gamma", "beta", "eps", "dtype")},
        "running": None if None in running else running,
    }


# From the operands of an operation to the arguments of its function in ``fastresunet.ops`` and of its twin.
_ARGUMENTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "conv": _conv_arguments,
    "conv_norm_sum": _conv_norm_sum_arguments,
    "batch_affine": _batch_affine_arguments,
    "excitation": dict,
}
