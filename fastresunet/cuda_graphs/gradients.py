"""Gradients in memory that graphs share: the sums over the batches of an accumulation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


class Gradients:
    """The gradients of an optimiser's parameters.

    Between two calls the sums are the parameters' ``grad``, as after ``backward``; ``zero_grad()`` drops them.

    Args:
        optimizer: holds the parameters.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._sums: dict[Tensor, Tensor] = {}  # graphs write to them: they stay
        self._among: list[Tensor] = []
        self._receivers: list[Tensor] = []

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters of the optimiser."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    @property
    def trainable(self) -> list[Tensor]:
        """Those that are not frozen."""
        return [parameter for parameter in self.parameters if parameter.requires_grad]

    def are_summing(self) -> bool:
        """Return whether the parameters hold the gradients of earlier batches.

        Raises:
            RuntimeError: they hold others.
        """
        held = {x: x.grad for x in self.parameters if x.grad is not None}
        if any(gradient is not self._sums.get(x) for x, gradient in held.items()):
            raise RuntimeError(
                "parameters have gradients that this training step has not made; call optimizer.zero_grad() before it"
            )
        return bool(held)

    def add(self, first: bool) -> None:
        """Add the parameters' gradients, which a backward pass has just made, to the sums.

        Args:
            first: start new sums.

        Raises:
            RuntimeError: other parameters have gradients than in the batches before.
        """
        given = {x: x.grad for x in self.parameters if x.grad is not None}
        trainable = self.trainable
        if first and not _are_same(trainable, self._among):
            self._among, self._receivers = trainable, list(given)
        if not _are_same(list(given), self._receivers):
            raise RuntimeError(
                f"gradients are summed over batches that give them to the same parameters; this batch gives them to "
                f"{len(given)}, those before to {len(self._receivers)}. Update before you freeze or unfreeze parameters"
            )
        for x, gradient in given.items():
            if first and (x not in self._sums or _differ(self._sums[x], gradient)):
                self._sums[x] = torch.empty_like(gradient)
        sums = [self._sums[x] for x in given]
        if first:
            torch._foreach_copy_(sums, list(given.values()))
        else:
            torch._foreach_add_(sums, list(given.values()))
        self.hand_over()

    def hand_over(self) -> None:
        """Make the sums the parameters' gradients."""
        for parameter in self._receivers:
            parameter.grad = self._sums[parameter]

    def clear(self) -> None:
        """Leave the parameters without gradients."""
        for parameter in self.parameters:
            parameter.grad = None


def _are_same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(a is b for a, b in zip(found, expected, strict=True))


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.dtype != b.dtype or a.device != b.device or a.shape != b.shape
