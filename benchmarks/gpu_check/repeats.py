"""Whether a step computes the same bits again: repeated from recordings of its operations, and from a CUDA graph.

No kernel adds in an order that chance decides, so that every bit has to be the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from fastresunet_kernels.prepared import Prepared
from fastresunet_kernels.replay import Plan
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

        yield f"{name}, {mode}, repeated from recordings", partial(_check_recordings, stage, step)
        if stage.device.type == "cuda":
            yield f"{name}, {mode}, from a CUDA graph", partial(_check, step, GraphedStep)


def _check(step: Callable[[], Step], again: Callable[[Step], Computed]) -> str:
    return _compared(step(), again)


def _check_recordings(stage: Stage, step: Callable[[], Step]) -> str:
    """Check a step whose operations are all repeated from recordings."""
    counts: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            counts[name] += 1
            return function(*arguments)

        return counted

    def recorded(step: Step) -> Computed:
        counts.clear()
        return step

    with (
        patch.object(Prepared, "__call__", counting("calls", Prepared.__call__)),
        patch.object(Plan, "replay", counting("replays", Plan.replay)),
    ):
        problem = _check(step, recorded)
    if problem or stage.rehearsal:  # PyTorch's backend, in a rehearsal, has no recordings
        return problem
    repeated = f"{counts['replays']} of {counts['calls']} operations were repeated from a recording"
    return "" if counts["calls"] and counts["replays"] == counts["calls"] else repeated


def _compared(step: Step, again: Callable[[Step], Computed]) -> str:
    with observed_calls(lambda call: None):  # while calls are watched, none is repeated
        expected = _values(step)
    step()
    return difference(_values(again(step)), expected)


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> str:
    """Return how many tensors differ in any bit, and how far the first of them; "" if all are the same."""
    wrong = [n for n, (a, b) in enumerate(zip(found, expected, strict=True)) if not torch.equal(a, b)]
    if not wrong:
        return ""
    a, b = found[wrong[0]].double(), expected[wrong[0]].double()
    error = float((a - b).norm() / b.norm())
    return f"{len(wrong)} of {len(found)} tensors differ, the first, number {wrong[0]}, by {error:.1e} of its norm"


def _values(step: Computed) -> list[Tensor]:
    """Return copies of outputs and gradients."""
    outputs = step()
    gradients = [leaf.grad for leaf in step.work.leaves] if step.mode == "training" else []
    return [x.detach().clone() for x in (*outputs, *gradients) if x is not None]
