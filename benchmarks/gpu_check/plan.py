"""What is done on a GPU, most telling first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.gpu_check.schedule import Phase
from benchmarks.gpu_check.shares import Task

# This file is read before PyTorch is known to work: names of providers and modes are text here.
_COMPILED = ("compile", "compile max-autotune")
_SHAPES = ((8, 256), (1, 256), (32, 256), (16, 256))
_REHEARSED = ((1, 16),)
_REHEARSAL_SLOWNESS = 4  # a C++ compiler stands behind every kernel there
PHASES = {
    "ceilings": "bytes copied, products and empty launches of this device",
    "baselines": "torch.compile of the plain network, beside the checks",
    "checks": "every operation in its default configuration, bfloat16, folded ones first",
    "networks": "the whole network in every way to run it, with and without CUDA graphs",
    "kernels": "GPU time of every launch beside its floor",
    "layers": "every operation beside cuDNN's",
    "precisions": "every operation in TF32, float16 and float32",
    "configurations": "every configuration that can be selected, bfloat16",
}


def phases(names: Sequence[str], workers: int, rehearse: bool) -> list[Phase]:
    """Return phases in the order of their importance.

    Args:
        names: of those that are wanted, out of ``PHASES``.
        workers: processes that check, and so compile, side by side.
        rehearse: without a GPU, see ``benchmarks.gpu_check.stage``.
    """
    found = [
        Phase("ceilings", [_task("ceilings", rehearse, unit_seconds=40)], 40, quiet=True),
        Phase("baselines", _baselines(rehearse), 170, beside=True, at_once=max(1, workers // 2), grace=0),
        Phase("checks", _checks("bf16", workers, rehearse), 150),
        Phase("networks", [_task("network_times", rehearse)], 180, quiet=True),
        Phase("kernels", [_task("kernel_times", rehearse)], 60, quiet=True),
        Phase("layers", [_task("layer_times", rehearse, unit_seconds=30)], 60, quiet=True),
        Phase("precisions", _precisions(workers, rehearse), 60),
        Phase("configurations", _checks("bf16", workers, rehearse, "--configurations"), 90),
    ]
    slowness = _REHEARSAL_SLOWNESS if rehearse else 1
    return [replace(phase, seconds=slowness * phase.seconds) for phase in found if phase.name in names]


def _task(module: str, rehearse: bool, *arguments: str, unit_seconds: float = 60) -> Task:
    command = ("-m", f"benchmarks.gpu_check.{module}", *arguments, *(["--rehearse"] if rehearse else []))
    return Task(" ".join((module, *arguments)), command, unit_seconds * (_REHEARSAL_SLOWNESS if rehearse else 1))


def _checks(precision: str, workers: int, rehearse: bool, *options: str) -> list[Task]:
    return [_task("checks", rehearse, precision, f"{n}/{workers}", *options) for n in range(workers)]


def _precisions(workers: int, rehearse: bool) -> list[Task]:
    """Return the checks of all precisions at once; each takes a third of the processes."""
    each = max(1, workers // 3)
    return [task for precision in ("tf32", "fp16", "fp32") for task in _checks(precision, each, rehearse)]


def _baselines(rehearse: bool) -> list[Task]:
    """Return what is compiled, what most want to know first."""
    if rehearse:  # what a CPU compiles in a minute
        wanted = [("compile", "evaluation", shape) for shape in _REHEARSED]
    else:
        wanted = [(provider, mode, _SHAPES[0]) for provider in _COMPILED for mode in ("training", "evaluation")]
        wanted += [("compile", mode, shape) for shape in _SHAPES[1:] for mode in ("training", "evaluation")]
    return [
        _task("baselines", rehearse, provider, mode, str(batch), str(size), unit_seconds=170)
        for provider, mode, (batch, size) in wanted
    ]
