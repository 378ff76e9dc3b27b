"""Whether ``GraphedTrainingStep`` and ``GraphedInference`` compute what the same object computes without graphs.

In a rehearsal nothing is captured: then both sides are eager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.repeats import difference
from benchmarks.gpu_check.stage import Stage
from benchmarks.precision import Precision
from fastresunet import GraphedInference, GraphedTrainingStep, fold
from fastresunet.cuda_graphs import CaptureError
from fastresunet.model import FastResUNetPP
from fastresunet.training.losses import bce_dice_loss

_LEARNING_RATE = 1e-3
# Two shapes, each eager, captured and replayed, and the first again after the second.
_ORDER = (0, 0, 0, 1, 1, 1, 0, 1)


def checks(stage: Stage, precision: Precision) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield what is to be checked, and how; a check returns what is wrong, "" if nothing is."""
    autocast = precision.features if precision.autocast else None
    yield "GraphedTrainingStep, two shapes", lambda: _training(stage, autocast, {})
    yield "GraphedTrainingStep, batches summed and clipped", lambda: _training(stage, autocast, {"clip_norm": 0.5})
    yield "GraphedTrainingStep, after a capture that failed", lambda: _after_failure(stage, autocast)
    yield "GraphedInference, folded, two shapes", lambda: _inference(stage, precision)


def _network(stage: Stage) -> FastResUNetPP:
    module = stage.subject.module(True, stage.backend)
    assert isinstance(module, FastResUNetPP)
    return module.to(stage.device)


def _images(stage: Stage) -> list[Tensor]:
    batch, size = stage.check_shape
    return [stage.subject.inputs(n, size)[0].to(stage.device) for n in (batch, batch + 1)]


def _masks(images: Tensor) -> Tensor:
    return (images[:, :1] > 0.5).float()


def _trained(stage: Stage, autocast: torch.dtype | None, options: dict[str, Any]) -> tuple[list[Tensor], int]:
    """Return losses, parameters and buffers after some steps, and how many shapes were captured."""
    network, images = _network(stage).train(), _images(stage)
    optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE, fused=True)
    step = GraphedTrainingStep(network, bce_dice_loss, optimizer, autocast=autocast, **options)
    updates = [True] * len(_ORDER) if "clip_norm" not in options else [n % 2 == 1 for n in range(len(_ORDER))]
    losses = [step(images[n], _masks(images[n]), update=update) for n, update in zip(_ORDER, updates, strict=True)]
    return [*losses, *network.state_dict().values()], len(step.captured)


def _training(stage: Stage, autocast: torch.dtype | None, options: dict[str, Any]) -> str:
    expected, _ = _trained(stage, autocast, {**options, "max_shapes": 0})
    found, captured = _trained(stage, autocast, options)
    return difference(found, expected) or _uncaptured(stage, captured)


def _after_failure(stage: Stage, autocast: torch.dtype | None) -> str:
    network, (images, _) = _network(stage).train(), _images(stage)
    reads = [True]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        value = bce_dice_loss(logits, target)
        return value * float(value.detach()) if reads[0] else value

    optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE, fused=True)
    step = GraphedTrainingStep(network, loss, optimizer, autocast=autocast)
    step(images, _masks(images))
    try:
        step(images, _masks(images))
    except CaptureError:
        pass
    else:
        if stage.device.type == "cuda":
            return "a loss that reads a value on the host was captured"
    reads[0] = False
    losses = [step(images, _masks(images)) for _ in range(3)]
    if not all(torch.isfinite(x) for x in losses):
        return f"losses after it are {', '.join(f'{float(x):.3g}' for x in losses)}"
    return _uncaptured(stage, len(step.captured), shapes=1)


def _inference(stage: Stage, precision: Precision) -> str:
    folded = fold(_network(stage).eval(), backend=stage.backend).to(stage.device, precision.features)
    images = [x.to(precision.features) for x in _images(stage)]
    graphed = GraphedInference(folded)
    with torch.no_grad():
        expected = [folded(images[n]) for n in _ORDER]
        found = [graphed(images[n]) for n in _ORDER]
        problem = difference(found, expected) or _uncaptured(stage, len(graphed.captured))
        graphed.reset()
        return problem or difference([graphed(images[n]) for n in _ORDER], expected)


def _uncaptured(stage: Stage, captured: int, shapes: int = 2) -> str:
    wanted = shapes if stage.device.type == "cuda" else 0
    return "" if captured == wanted else f"{captured} shapes were captured, not {wanted}"
