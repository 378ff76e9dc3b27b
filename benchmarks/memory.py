"""Memory of a step: what it keeps for backward, what a GPU's allocator hands out, and the largest batch that fits."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from benchmarks.work import Step


@dataclass(frozen=True)
class Peak:
    """Most memory during a step, in bytes, parameters and inputs included.

    Attributes:
        allocated: in tensors; without meaning where a CUDA graph holds a pool of its own.
        reserved: taken from the driver.
    """

    allocated: int
    reserved: int

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def kept_bytes(step: Step) -> int:
    """Return the bytes of the tensors that a forward pass keeps for the backward pass, without those it was given.

    Tensors that share memory count once.

    Args:
        step: in a mode with gradients.
    """
    function = step.work.function
    given = [*step.work.leaves, *tree_leaves(step.work.arguments)]
    if isinstance(function, nn.Module):
        given += [*function.parameters(), *function.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    # Holding the storages keeps their addresses from being given to others.
    storages: dict[int, torch.UntypedStorage] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor),
        step.precision.active(step.work.device),
    ):
        outputs = step.work.outputs()
    total = sum(storage.nbytes() for storage in storages.values())
    del outputs
    return total


def held_memory(device: torch.device) -> Peak:
    """Return what is allocated and reserved on a GPU now, without cached memory."""
    gc.collect()
    torch.cuda.empty_cache()
    return Peak(torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device))


def peak_memory(step: Callable[[], object], device: torch.device, others: Peak) -> Peak:
    """Return the peak of one step on a GPU.

    Args:
        step: has run before, so that nothing is set up or compiled.
        device: a CUDA device.
        others: held before the step was built; left out.
    """
    held_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return Peak(allocated - others.allocated, reserved - others.reserved)


def largest_batch(fits: Callable[[int], bool], limit: int = 4096) -> int:
    """Return the largest batch that fits, 0 if not even one image does.

    Args:
        fits: whether a batch of so many images can be computed; if one fits, so do all smaller ones.
        limit: beyond which it is not tried.
    """
    fitting, failing = 0, 1
    while failing <= limit and fits(failing):
        fitting, failing = failing, 2 * failing
    failing = min(failing, limit + 1)
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if fits(middle):
            fitting = middle
        else:
            failing = middle
    return fitting


def fits_on_gpu(make_step: Callable[[int], Callable[[], object]], batch: int, device: torch.device) -> bool:
    """Return whether a step of ``batch`` images can be made and run."""
    gc.collect()
    torch.cuda.empty_cache()
    try:
        make_step(batch)()
        torch.cuda.synchronize(device)
    except torch.cuda.OutOfMemoryError:
        return False
    return True
