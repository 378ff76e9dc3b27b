"""Batch statistics shared between processes, for ``nn.SyncBatchNorm``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_synchronized(norm: nn.Module) -> bool:
    """Return whether ``norm`` shares its batch statistics with other processes."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training:
        return False
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size(_group(norm)) > 1


def merge_over_processes(norm: nn.Module, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance (C) and number of values over all processes, by Chan's formula; differentiable."""
    group = _group(norm)
    weighted = torch.cat([mean * count, mean.new_full((1,), count)])
    summed = _SumOverProcesses.apply(weighted, group)
    total = summed[-1].detach()
    merged_mean = summed[:-1] / total
    deviations = (variance + (mean - merged_mean).square()) * count
    return merged_mean, _SumOverProcesses.apply(deviations, group) / total, total


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over processes; each process's result depends on every process's tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone()
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None


def _group(norm: nn.Module) -> Any:
    group = getattr(norm, "process_group", None)
    return torch.distributed.group.WORLD if group is None else group
