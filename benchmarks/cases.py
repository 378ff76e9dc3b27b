"""Which cases are measured, most telling first: what fits a machine in ten minutes, or everything."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from benchmarks.layers import LayerSubject, layers
from benchmarks.networks import BLOCKS, NETWORK, ModuleSubject
from benchmarks.providers import PROVIDERS, Subject
from benchmarks.work import MODES, Mode


@dataclass(frozen=True)
class Case:
    """One subject in one mode, precision and size, and how it is computed.

    Attributes:
        group: ``"network"``, ``"block"`` or ``"layer"``.
        subject: what is computed.
        mode: how much of it.
        precision: name in ``PRECISIONS``.
        batch: images.
        size: their height and width in pixels.
        providers: names in ``PROVIDERS``; the first is the baseline.
        energy: also measure the energy of an image.
    """

    group: str
    subject: Subject
    mode: Mode
    precision: str
    batch: int
    size: int
    providers: tuple[str, ...]
    energy: bool = False

    def __str__(self) -> str:
        return f"{self.group} {self.subject.name} {self.mode} {self.precision} {self.batch}x{self.size}x{self.size}"


ALL = tuple(PROVIDERS)
QUICK = tuple(name for name, provider in PROVIDERS.items() if not provider.build_seconds)
COMPILED = tuple(name for name, provider in PROVIDERS.items() if "max-autotune" not in provider.compiled)
LAYER_PROVIDERS = ("eager", "eager + CUDA graph", "FastResUNetPP", "FastResUNetPP + CUDA graph")
STEPS: tuple[Mode, ...] = ("training", "evaluation")


def quick_on_gpu() -> Iterator[Case]:
    """Yield what a GPU is asked in ten minutes."""
    network = ModuleSubject(NETWORK)
    for mode in STEPS:
        yield Case("network", network, mode, "bf16", 8, 256, QUICK, energy=True)
    yield Case("network", network, "forward", "bf16", 8, 256, QUICK)
    yield from _layers(STEPS, "bf16", 8, 256)
    for batch, mode in itertools.product((1, 2, 4, 16, 32, 64), STEPS):
        yield Case("network", network, mode, "bf16", batch, 256, QUICK)
    for mode in STEPS:
        yield Case("network", network, mode, "bf16", 8, 256, COMPILED)
    for precision, mode in itertools.product(("tf32", "fp16", "fp32"), STEPS):
        yield Case("network", network, mode, precision, 8, 256, QUICK)
    yield from _blocks(STEPS, "bf16", 8, 256)
    for (batch, size), mode in itertools.product(((16, 352), (8, 512)), STEPS):
        yield Case("network", network, mode, "bf16", batch, size, QUICK)
    yield Case("network", network, "training", "bf16", 8, 256, ALL)


def quick_on_cpu() -> Iterator[Case]:
    """Yield what a CPU is asked in ten minutes: small images and batches, and one of a usual size."""
    network = ModuleSubject(NETWORK)
    yield Case("network", network, "training", "fp32", 2, 256, QUICK)
    for batch, mode in itertools.product((2, 1, 4), STEPS):
        yield Case("network", network, mode, "fp32", batch, 128, QUICK)
    yield Case("network", network, "forward", "fp32", 2, 128, QUICK)
    yield from _layers(("training",), "fp32", 1, 128)
    yield Case("network", network, "evaluation", "fp32", 2, 128, COMPILED)
    yield from _blocks(("training",), "fp32", 1, 128)
    yield Case("network", network, "training", "fp32", 8, 128, QUICK)
    yield Case("network", network, "evaluation", "fp32", 1, 256, QUICK)
    # Last, because what cannot be compiled in time is left out.
    yield Case("network", network, "training", "fp32", 2, 128, COMPILED)


def everything(device: str) -> Iterator[Case]:
    """Yield all combinations; on a CPU without TF32, float16 and large batches."""
    gpu = device == "cuda"
    yield from quick_on_gpu() if gpu else quick_on_cpu()
    precisions = ("bf16", "tf32", "fp16", "fp32") if gpu else ("fp32", "bf16")
    batches = (1, 2, 4, 8, 16, 32, 64) if gpu else (1, 2, 4)
    for size, precision, batch, mode in itertools.product((256, 352, 512), precisions, batches, MODES):
        providers = ALL if batch in (1, 16) else COMPILED
        yield Case("network", ModuleSubject(NETWORK), mode, precision, batch, size, providers, energy=batch == 16)
    for precision in precisions:
        yield from _blocks(MODES, precision, batches[-3], 256)
        yield from _layers(MODES, precision, batches[-3], 256, (*LAYER_PROVIDERS, "compile"))


def select(device: str, full: bool) -> list[Case]:
    """Return the cases of a device, each once.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        full: everything, or what takes ten minutes.
    """
    cases = everything(device) if full else quick_on_gpu() if device == "cuda" else quick_on_cpu()
    applying = (replace(case, providers=_applying(case, torch.device(device))) for case in cases)
    return list({(str(case), case.providers): case for case in applying}.values())


def _applying(case: Case, device: torch.device) -> tuple[str, ...]:
    return tuple(name for name in case.providers if PROVIDERS[name].applies(case.subject, case.mode, device))


def _blocks(modes: tuple[Mode, ...], precision: str, batch: int, size: int) -> Iterator[Case]:
    for mode, name in itertools.product(modes, BLOCKS):
        yield Case("block", ModuleSubject(name), mode, precision, batch, size, QUICK)


def _layers(
    modes: tuple[Mode, ...], precision: str, batch: int, size: int, providers: tuple[str, ...] = LAYER_PROVIDERS
) -> Iterator[Case]:
    for mode in modes:
        for layer in distinct(layers(mode != "evaluation", batch, size)):
            yield Case("layer", layer, mode, precision, batch, size, providers)


def distinct(found: list[LayerSubject]) -> list[LayerSubject]:
    """Return layers of which no two have the same name: a BatchNorm that is called twice has the sizes of each call."""
    names: dict[str, int] = {}
    result = []
    for layer in found:
        names[layer.name] = names.get(layer.name, 0) + 1
        number = names[layer.name]
        name = layer.name if number == 1 else f"{layer.name} {number}"
        result.append(LayerSubject(name, layer.operation, layer.options, layer.count))
    return result
