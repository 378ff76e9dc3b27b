"""Batch statistics shared between processes, for ``nn.SyncBatchNorm``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_synchronized(norm: nn.Module) -> bool:
    """Return whether ``norm`` shares its batch statistics with other processes."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training:
        return False
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and _group_size(norm) > 1


def merge_over_processes(norm: nn.Module, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance (C) and number of values over all processes, by Chan's formula; differentiable."""
    # Not at the top: PyTorch builds without torch.distributed have no such module.
    from torch.distributed.nn.functional import all_reduce  # noqa: PLC0415

    group = _group(norm)
    total = all_reduce(mean.new_tensor(float(count)), group=group)
    merged_mean = all_reduce(mean * count, group=group) / total
    merged_variance = all_reduce((variance + (mean - merged_mean).square()) * count, group=group) / total
    return merged_mean, merged_variance, total


def _group(norm: nn.Module) -> torch.distributed.ProcessGroup | None:
    group = getattr(norm, "process_group", None)
    return torch.distributed.group.WORLD if group is None else group


def _group_size(norm: nn.Module) -> int:
    return torch.distributed.get_world_size(_group(norm))
