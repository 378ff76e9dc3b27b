"""Tune the kernels for the network on the GPU of this machine, and say what came of it."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.table import Table
from torch import nn

from fastresunet.model import FastResUNetPP
from fastresunet.training.checkpoints import load_model
from fastresunet.training.errors import UserError
from fastresunet.training.inference import DEFAULT_SIZE
from fastresunet.training.progress import track
from fastresunet.training.recipe import Precision

if TYPE_CHECKING:
    from fastresunet.tuning import OperationTimes, Tuning

_AUTOCAST = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


def tune_network(
    checkpoint: Path | None = None,
    *,
    size: int | None = None,
    batch_size: int = 8,
    precision: Precision = "32",
    training: bool = True,
) -> tuple[Tuning, Path]:
    """Time the kernels of one step on the current GPU, and save which are fastest.

    Args:
        checkpoint: network to tune for; None takes the published numbers of channels.
        size: height and width of the images, in pixels; None takes that of the training (256 if unknown).
        batch_size: images in a step.
        precision: ``"32"``, or ``"bf16"`` or ``"16"`` for automatic mixed precision.
        training: tune the backward pass too.

    Returns:
        What was measured, and the file that the choices were added to.

    Raises:
        UserError: there is no GPU or no Triton, or the checkpoint cannot be used.
        OSError: the file cannot be written.
    """
    device = _gpu()
    tuning = importlib.import_module("fastresunet.tuning")
    cache = importlib.import_module("fastresunet_kernels.cache")
    model, trained_size = FastResUNetPP(), None
    if checkpoint is not None:
        model, trained_size, _ = load_model(checkpoint)
    model.to(device)
    side = size or trained_size or DEFAULT_SIZE
    file: Path = cache.cache_file(device)
    cache.merge(file, cache.Tuned())  # a folder that cannot be written is better known before the work
    images = torch.rand(batch_size, model.in_channels, side, side, device=device)
    calls = tuning.record(lambda: run_step(model, images, precision, training))
    measured: Tuning = tuning.tune(calls, tuning.gpu_milliseconds, track)
    measured.save(device)
    return measured, file


def _gpu() -> torch.device:
    if not torch.cuda.is_available():
        raise UserError("tuning times kernels on a GPU; none is available to PyTorch. See: fastresunet info")
    if importlib.util.find_spec("triton") is None:
        raise UserError("tuning times Triton kernels, and Triton is not installed. Run: pip install triton")
    return torch.device("cuda", torch.cuda.current_device())


def run_step(model: nn.Module, images: torch.Tensor, precision: Precision, training: bool) -> None:
    """Run a training step without an optimiser, or an evaluation.

    Args:
        model: network on the device of the images.
        images: (N, channels, H, W).
        precision: as that of ``train``.
        training: run the backward pass too.
    """
    dtype = _AUTOCAST[precision]
    model.train(training)
    with torch.set_grad_enabled(training):
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            logits = model(images)
        if training:
            logits.backward(torch.randn_like(logits))


def tables(tuning: Tuning) -> list[Table]:
    """Return what was chosen for layers whose default is not fastest, and the times of all operations of a step."""
    changed = {key: times for key, times in tuning.layers.items() if times.fastest != times.default}
    failed = sum(len(times.failed) for times in tuning.layers.values())
    layers = Table(
        *("layer", "configuration", "speed-up"),
        title=f"{len(changed)} of {len(tuning.layers)} layers have a faster configuration than the default",
        caption=f"of their operations' times; {failed} configurations did not compile or run, or were wrong",
    )
    for key, times in changed.items():
        speed_up = times.time(times.default) / times.time(times.fastest)
        options = ", ".join(f"{name} {value}" for name, value in vars(times.fastest).items())
        layers.add_row(key, options, f"{speed_up:.2f}")
    operations = Table(
        *("operation", "calls", "PyTorch", "default", "tuned", "faster in PyTorch"),
        title="Milliseconds of all calls in a step",
        caption="PyTorch computes the calls in which it is faster",
    )
    by_name: dict[str, list[OperationTimes]] = {}
    for call in tuning.operations.values():
        by_name.setdefault(call.name, []).append(call)
    for name, calls in [*by_name.items(), ("all", list(tuning.operations.values()))]:
        operations.add_row(name, *_summary(calls))
    return [layers, operations]


def _summary(calls: list[OperationTimes]) -> list[str]:
    """Return the cells of a row: calls, milliseconds of each way to compute them, calls faster in PyTorch."""
    times = [sum(call.count * getattr(call, way) for call in calls) for way in ("torch", "default", "tuned")]
    in_torch = sum(call.count for call in calls if call.backend == "torch")
    return [str(sum(call.count for call in calls)), *(f"{time:.3f}" for time in times), str(in_torch)]
