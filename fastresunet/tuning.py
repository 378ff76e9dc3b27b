"""Find the fastest configuration of every kernel, and the faster backend of every operation, by timing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
import triton
from fastresunet_kernels import cache, choice
from fastresunet_kernels.config import Config, Layer, candidates, rule
from fastresunet_kernels.keys import layer_key, operation_key
from torch import Tensor
from triton.errors import TritonError

from fastresunet.ops.backend import Call, observed_calls

Timer = Callable[[Callable[[], object]], float]
Track = Callable[[Sequence["CountedCall"], str, int], Iterable["CountedCall"]]

# Another choice than the default has to be this much faster, so that noise does not choose.
_WORTHWHILE = 0.98
# Results that are smaller than this times the largest one of a call may be nothing but rounding.
_NEGLIGIBLE = 1e-3


@dataclass
class CountedCall:
    """A call of an operation, and how often a step has calls with the same key."""

    call: Call
    count: int = 0


@dataclass
class LayerTimes:
    """What was measured of a layer.

    Attributes:
        layer: what a configuration is chosen by.
        milliseconds: for each configuration, the time of all operations of a step that contain the layer.
        failed: configurations that did not compile, did not run, or gave another result.
    """

    layer: Layer
    milliseconds: dict[Config, float] = field(default_factory=dict)
    failed: set[Config] = field(default_factory=set)

    @property
    def default(self) -> Config:
        """The configuration without tuning."""
        return rule(self.layer)

    @property
    def fastest(self) -> Config:
        """The configuration to use."""
        best = min(self.milliseconds, key=self.time, default=self.default)
        return best if self.time(best) < _WORTHWHILE * self.time(self.default) else self.default

    def time(self, config: Config) -> float:
        """Return the milliseconds with a configuration, infinitely many if it failed."""
        return inf if config in self.failed else self.milliseconds.get(config, inf)


@dataclass(frozen=True)
class OperationTimes:
    """Milliseconds of one call of an operation: its PyTorch twin, its kernels by default and as tuned.

    Kernels that failed took infinitely long.
    """

    name: str
    count: int
    torch: float
    default: float
    tuned: float

    @property
    def backend(self) -> str:
        """The faster backend, after tuning."""
        return "torch" if self.torch < _WORTHWHILE * self.tuned else "triton"


@dataclass(frozen=True)
class Tuning:
    """What was measured, by ``layer_key`` and ``operation_key``."""

    layers: dict[str, LayerTimes]
    operations: dict[str, OperationTimes]

    def save(self, device: torch.device) -> None:
        """Add the choices to the file of a device.

        Raises:
            OSError: the file cannot be written.
        """
        configs = {key: times.fastest for key, times in self.layers.items()}
        backends = {key: times.backend for key, times in self.operations.items()}
        cache.merge(cache.cache_file(device), cache.Tuned(configs, backends))


def gpu_milliseconds(function: Callable[[], object]) -> float:
    """Return the time a GPU takes for what ``function`` launches.

    The launches are replayed from a graph: launched one by one, thin layers would take as long as the host needs for
    that, whatever their configuration.
    """
    milliseconds: float = triton.testing.do_bench_cudagraph(function, return_mode="median")
    return milliseconds


def record(step: Callable[[], object]) -> dict[str, CountedCall]:
    """Run ``step`` and return its calls of operations; of those with the same key the first.

    Args:
        step: a training step, or an evaluation; the operands of its operations stay in memory.
    """
    calls: dict[str, CountedCall] = {}

    def keep(call: Call) -> None:
        calls.setdefault(operation_key(call.name, call.operands), CountedCall(call)).count += 1

    with observed_calls(keep):
        step()
    return calls


@torch.no_grad()
def tune(calls: dict[str, CountedCall], timer: Timer, track: Track) -> Tuning:
    """Time the candidates of every layer in the calls, then both backends of every call.

    Layers are tuned one at a time, the others on their defaults, each by the time of the whole operations it is in.

    Args:
        calls: from ``record``.
        timer: returns how long a function takes.
        track: yields the calls it is given, and shows how far they are; see ``fastresunet.training.progress.track``.
    """
    layers: dict[str, LayerTimes] = {}
    for counted in track(list(calls.values()), "Timing configurations", len(calls)):
        _time_layers(counted, layers, timer)
    operations = {
        key: _time_backends(counted, layers, timer)
        for key, counted in zip(calls, track(list(calls.values()), "Comparing with PyTorch", len(calls)), strict=True)
    }
    return Tuning(layers, operations)


def _time_layers(counted: CountedCall, layers: dict[str, LayerTimes], timer: Timer) -> None:
    for layer in _layers(counted.call):
        times = layers.setdefault(layer_key(layer), LayerTimes(layer))
        # Of the first configuration that runs, which is the default where that runs.
        reference: list[Tensor] | None = None
        for config in candidates(layer):
            if config in times.failed:
                continue
            results = _results(counted.call, {layer: config})
            if results is None or (reference is not None and not _are_close(results, reference)):
                times.failed.add(config)
                continue
            reference = results if reference is None else reference
            with choice.forced({layer: config}):
                time = timer(lambda: counted.call.compute("triton"))
            times.milliseconds[config] = times.milliseconds.get(config, 0) + counted.count * time


def _time_backends(counted: CountedCall, layers: dict[str, LayerTimes], timer: Timer) -> OperationTimes:
    call = counted.call

    def kernels(configs: dict[Layer, Config]) -> float:
        if _results(call, configs) is None:
            return inf
        with choice.forced(configs):
            return timer(lambda: call.compute("triton"))

    contained = _layers(call)
    tuned = {layer: layers[layer_key(layer)].fastest for layer in contained if layer_key(layer) in layers}
    default = kernels({layer: rule(layer) for layer in contained})
    return OperationTimes(
        call.name,
        counted.count,
        timer(lambda: call.compute("torch")),
        default,
        default if all(config == rule(layer) for layer, config in tuned.items()) else kernels(tuned),
    )


def _layers(call: Call) -> list[Layer]:
    with choice.recorded() as layers:
        _results(call, {})
    return list(dict.fromkeys(layers))


def _results(call: Call, configs: dict[Layer, Config]) -> list[Tensor] | None:
    """Return the results of the kernels, or ``None`` if they do not compile or run."""
    try:
        with choice.forced(configs):
            return list(_flat(call.compute("triton")))
    except torch.AcceleratorError:
        raise  # after which the device computes nothing any more
    except (TritonError, RuntimeError):
        return None


def _flat(results: Any) -> Iterable[Tensor]:
    if isinstance(results, Tensor):
        yield results
    else:
        for result in results:
            yield from _flat(result)


def _are_close(results: list[Tensor], reference: list[Tensor]) -> bool:
    """Return whether results are equal but for the order of sums.

    The gradient of a bias in front of a BatchNorm is 0 but for rounding: results far below the others are held against
    those.
    """
    pairs = [(a, b) for a, b in zip(results, reference, strict=True) if b.numel() and b.is_floating_point()]
    largest = [float(b.double().abs().max()) for _, b in pairs]
    return all(
        _is_close(result, twin, max(size, _NEGLIGIBLE * max(largest)))
        for (result, twin), size in zip(pairs, largest, strict=True)
    )


def _is_close(result: Tensor, reference: Tensor, size: float) -> bool:
    tolerance = max(1e-3, 4 * torch.finfo(reference.dtype).eps)
    return float((result.double() - reference.double()).abs().max()) <= tolerance * size
