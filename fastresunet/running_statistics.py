"""Running statistics of BatchNorms, updated together at the end of a forward pass, in a few launches."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

Norm: TypeAlias = nn.BatchNorm2d | nn.SyncBatchNorm
# The norm, the batch's mean, its biased variance, and what makes that unbiased.
Update: TypeAlias = tuple[Norm, Tensor, Tensor, float | Tensor]


class _Gathered(threading.local):
    """Updates of the forward pass that this thread is in, or ``None`` outside of one."""

    updates: list[Update] | None = None


_gathered = _Gathered()


@contextmanager
def updated_together() -> Iterator[None]:
    """Gather the updates made inside and apply them at the end; the outermost of nested uses counts."""
    if torch.compiler.is_compiling() or _gathered.updates is not None:  # a compiler joins them by itself
        yield
        return
    updates: list[Update] = []
    _gathered.updates = updates
    try:
        yield
    finally:
        _gathered.updates = None
    _apply(updates)


@torch.no_grad()
def update_running_statistics(norm: Norm, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
    """Move running statistics towards the batch's, the variance unbiased, as ``nn.BatchNorm2d`` does in training.

    Args:
        norm: unchanged unless it is training and tracks running statistics.
        mean: batch mean (C,).
        variance: biased batch variance (C,).
        count: values of a channel in the batch.
    """
    if not norm.training or not norm.track_running_stats or norm.running_mean is None:
        return
    update = (norm, mean, variance, count / (count - 1))
    if torch.compiler.is_compiling() or _gathered.updates is None:
        _apply([update])
    else:
        _gathered.updates.append(update)


@torch.no_grad()
def _apply(updates: list[Update]) -> None:
    counters = [norm.num_batches_tracked for norm, *_ in updates if norm.num_batches_tracked is not None]
    if counters:
        torch._foreach_add_(counters, 1)
    # Running statistics and what they move towards, by momentum.
    together: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for (norm, mean, *_), variance in zip(updates, _unbiased(updates), strict=True):
        for running, value in ((norm.running_mean, mean), (norm.running_var, variance)):
            assert running is not None
            if norm.momentum is None or running.dtype != value.dtype:
                _move(norm, running, value)
            else:
                targets, values = together.setdefault(norm.momentum, ([], []))
                targets.append(running)
                values.append(value)
    for momentum, (targets, values) in together.items():
        torch._foreach_lerp_(targets, values, momentum)


def _unbiased(updates: list[Update]) -> Sequence[Tensor]:
    """Return the unbiased variances; factors that are numbers, as without other processes, in one launch."""
    factors = [factor for *_, factor in updates if isinstance(factor, float)]
    if updates and len(factors) == len(updates):
        return torch._foreach_mul([variance for _, _, variance, _ in updates], factors)
    return [variance * factor for _, _, variance, factor in updates]


def _move(norm: Norm, running: Tensor, value: Tensor) -> None:
    """Update one statistic in the batch statistics' dtype: those of half-precision networks would overflow."""
    assert norm.num_batches_tracked is not None
    factor = 1 / norm.num_batches_tracked.double() if norm.momentum is None else norm.momentum
    running.copy_(running.to(value.dtype) * (1 - factor) + value * factor)
