"""One computation to check and to time: a function of tensors, and the leaves whose gradients it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.precision import Precision

# forward: in training mode, what backward needs is kept; evaluation: without gradients, running statistics.
Mode = Literal["forward", "training", "evaluation"]
MODES: tuple[Mode, ...] = ("forward", "training", "evaluation")


@dataclass(frozen=True)
class Work:
    """A computation on given tensors.

    Attributes:
        function: takes ``arguments``; returns tensors, nested or not, ``None`` among them left out.
        arguments: tensors (or dataclasses of tensors) that are read.
        leaves: tensors that gradients are taken for.
        device: where all of them lie.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    leaves: list[Tensor]
    device: torch.device

    def outputs(self) -> list[Tensor]:
        """Return the differentiable results of one call."""
        results = tree_leaves(self.function(*self.arguments))
        return [result for result in results if isinstance(result, Tensor) and result.is_floating_point()]


def directions(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the same fixed random gradient for equal outputs, whatever their device and precision."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(output.shape, generator=generator, dtype=torch.float64).div_(16).to(output) for output in outputs
    ]


class Computed(Protocol):
    """A step of a computation that can be repeated without arguments."""

    @property
    def work(self) -> Work:
        """What is computed."""
        ...

    @property
    def mode(self) -> Mode:
        """How much of it."""
        ...

    def __call__(self) -> list[Tensor]:
        """Compute once and return the outputs; in training the leaves have fresh gradients afterwards."""
        ...


@dataclass(frozen=True)
class Step:
    """One step of a computation in a mode and a precision, without arguments, as it is timed.

    Attributes:
        work: what is computed.
        mode: how.
        precision: in which arithmetic.
        gradients: of the outputs, see ``directions``; used in training only.
    """

    work: Work
    mode: Mode
    precision: Precision
    gradients: list[Tensor]

    def __call__(self) -> list[Tensor]:
        """Compute once and return the outputs; in training the leaves have fresh gradients afterwards."""
        for leaf in self.work.leaves:
            leaf.grad = None
        with torch.set_grad_enabled(self.mode != "evaluation"), self.precision.active(self.work.device):
            outputs = self.work.outputs()
        if self.mode == "training":
            # What has no gradient, such as statistics in evaluation mode, is left out.
            pairs = [(y, g) for y, g in zip(outputs, self.gradients, strict=True) if y.requires_grad]
            torch.autograd.backward([y for y, _ in pairs], [g for _, g in pairs])
        return outputs


def step_of(work: Work, mode: Mode, precision: Precision) -> Step:
    """Return a step with gradients for its outputs, whose shapes a first call tells."""
    with torch.set_grad_enabled(mode != "evaluation"), precision.active(work.device):
        outputs = work.outputs()
    return Step(work, mode, precision, directions([output.detach() for output in outputs]))
