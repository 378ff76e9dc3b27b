"""What can be captured at all."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def check_is_one_process(model: nn.Module) -> None:
    """Raise unless a model computes on one device of one process.

    Raises:
        TypeError: it is no module, a wrapper for several devices, or has statistics shared between processes.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    distributed = torch.distributed
    processes = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    for name, module in model.named_modules():
        shared = isinstance(module, nn.SyncBatchNorm) and processes > 1
        if shared or isinstance(module, DistributedDataParallel | nn.DataParallel):
            raise TypeError(
                f"CUDA graphs are captured for one process on one device; {name or 'the model'} is a "
                f"{type(module).__name__} (processes: {processes}). Compute it without a graph."
            )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer.

    Raises:
        ValueError: there is none.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        return tensor.device
    raise ValueError(f"{type(model).__name__} has no parameters or buffers that would tell its device")
