"""Whether a computation is right, held against the plain one in float64 and the rounding of the plain one itself.

A computation may be as wrong as plain PyTorch in the same precision, times a factor, plus a few roundings. Errors are
relative in the Euclidean norm; for gradients the median over parameters counts, and all of them together.

How wrong plain PyTorch is depends on luck: a single ReLU that rounding turns on or off moves the network's gradients a
hundred times further than all other roundings together, and which ones it turns depends on the memory layout alone. So
plain PyTorch is run several times, with rounding that falls differently, and the worst one counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.precision import Precision, rounding
from benchmarks.work import Computed

# One network on one batch is compared; over several ``tests.numerics`` allows the median 2 and the total 4.
_FACTOR = 4
# Gradients below this share of the largest one are 0 but for rounding: biases in front of a BatchNorm.
_WITHOUT_EFFECT = 1e-6
# A result that is 0, or belongs to another input, has an error of 1 or more. Where plain PyTorch's own is so large that
# the factor would allow that, twice the error is allowed; such a precision proves little about a whole network.
_LARGE = 0.5


@dataclass(frozen=True)
class Values:
    """What a step computed, in float64: outputs, and gradients of the leaves (none outside training)."""

    outputs: list[Tensor]
    gradients: list[Tensor]


@dataclass(frozen=True)
class Errors:
    """Relative errors against float64.

    Attributes:
        outputs: the largest over the outputs.
        gradient_median: median over the leaves; 0 without gradients.
        gradient_total: of all leaves together; 0 without gradients.
    """

    outputs: float
    gradient_median: float
    gradient_total: float


@dataclass(frozen=True)
class Verdict:
    """Whether a computation passed.

    Attributes:
        passed: every error is allowed.
        errors: of the computation.
        allowed: what they may be.
    """

    passed: bool
    errors: Errors
    allowed: Errors

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {key: _finite(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        pairs = zip(asdict(self.errors).items(), asdict(self.allowed).values(), strict=True)
        return ", ".join(f"{name} {error:.1e} (allowed {limit:.1e})" for (name, error), limit in pairs)


def values(step: Computed) -> Values:
    """Run a step and return what it computed."""
    outputs = [output.detach().double() for output in step()]
    if step.mode != "training":
        return Values(outputs, [])
    return Values(outputs, [_gradient(leaf) for leaf in step.work.leaves])


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf, dtype=torch.float64) if leaf.grad is None else leaf.grad.detach().double()


def errors(found: Values, exact: Values) -> Errors:
    """Return how far a computation is from the exact one; infinitely far where it is not finite or has other shapes."""
    gradients = _with_effect(found.gradients, exact.gradients)
    relative = [_relative(a, b) for a, b in gradients]
    total = 0.0
    if gradients:
        missed = math.fsum(_distance(a, b) ** 2 for a, b in gradients)
        total = math.sqrt(missed / math.fsum(float(b.norm()) ** 2 for _, b in gradients))
    outputs = [_relative(a, b) for a, b in zip(found.outputs, exact.outputs, strict=True)]
    return Errors(max(outputs), statistics.median(relative) if relative else 0.0, total)


def judge(found: Values, plain: Sequence[Values], exact: Values, precision: Precision, terms: int) -> Verdict:
    """Return whether a computation is right.

    Args:
        found: what it computed.
        plain: what plain PyTorch computed in the same precision, in one or several ways.
        exact: what plain PyTorch computed in float64.
        precision: of both.
        terms: pixels of an image, the length of the sums in statistics and gradients.
    """
    error, slack = errors(found, exact), rounding(precision, terms)
    runs = [asdict(errors(run, exact)) for run in plain]
    reference = Errors(**{name: max(run[name] for run in runs) for name in runs[0]})
    allowed = Errors(*(min(_FACTOR * e + slack, max(_LARGE, 2 * e)) for e in asdict(reference).values()))
    pairs = zip(asdict(error).values(), asdict(allowed).values(), strict=True)
    # A reference that is not finite itself allows nothing.
    passed = all(math.isfinite(limit) and value <= limit for value, limit in pairs)
    return Verdict(passed, error, allowed)


def _with_effect(gradients: Sequence[Tensor], exact: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    largest = max((float(gradient.abs().max()) for gradient in exact if gradient.numel()), default=0.0)
    return [
        (a, b)
        for a, b in zip(gradients, exact, strict=True)
        if b.numel() and float(b.abs().max()) > _WITHOUT_EFFECT * largest
    ]


def _relative(found: Tensor, exact: Tensor) -> float:
    return _distance(found, exact) / max(float(exact.double().norm()), 1e-300)


def _distance(found: Tensor, exact: Tensor) -> float:
    if found.shape != exact.shape:
        return math.inf
    distance = float((found.double() - exact.double()).norm())
    return distance if math.isfinite(distance) else math.inf


def _finite(value: Any) -> Any:
    """Return numbers that JSON knows; infinity as text."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
