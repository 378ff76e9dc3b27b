"""Whether a step computes the same bits again: repeated from recordings of its operations, and from a CUDA graph.

No kernel adds in an order that chance decides, so that every bit has to be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_check.stage import Stage
from benchmarks.precision import Precision
from benchmarks.providers import PROVIDERS, GraphedStep, build
from benchmarks.work import Computed, Mode, Step
from fastresunet.ops.backend import observed_calls

_STEPS: tuple[tuple[str, Mode], ...] = (("folded", "evaluation"), ("FastResUNetPP", "training"))


def checks(stage: Stage, precision: Precision) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield what is to be checked, and how; a check returns what is wrong, "" if nothing is."""
    for name, mode in _STEPS:

        def step(name: str = name, mode: Mode = mode) -> Step:
            built = build(
                PROVIDERS[name], stage.subject, mode, precision, *stage.check_shape, stage.device, stage.backend
            )
            assert isinstance(built, Step)
            return built

        yield f"{name}, {mode}, repeated from recordings", partial(_check, step, lambda same: same)
        if stage.device.type == "cuda":
            yield f"{name}, {mode}, from a CUDA graph", partial(_check, step, GraphedStep)


def _check(step: Callable[[], Step], again: Callable[[Step], Computed]) -> str:
    return _difference(step(), again)


def _difference(step: Step, again: Callable[[Step], Computed]) -> str:
    with observed_calls(lambda call: None):  # while calls are watched, none is repeated
        expected = _values(step)
    step()
    found = _values(again(step))
    wrong = [n for n, (a, b) in enumerate(zip(found, expected, strict=True)) if not torch.equal(a, b)]
    if not wrong:
        return ""
    a, b = found[wrong[0]].double(), expected[wrong[0]].double()
    error = float((a - b).norm() / b.norm())
    return f"{len(wrong)} of {len(found)} tensors differ, the first by {error:.1e} of its norm"


def _values(step: Computed) -> list[Tensor]:
    """Return copies of outputs and gradients."""
    outputs = step()
    gradients = [leaf.grad for leaf in step.work.leaves] if step.mode == "training" else []
    return [x.detach().clone() for x in (*outputs, *gradients) if x is not None]
