"""Operations prepared: what one allocates and launches is worked out once, then done again by filling in addresses.

A launch through Triton costs the host 20 to 50 us: it binds arguments, works out what to specialise on, and looks the
kernel up. The launchers around it cost as much again. But all of that depends on the shapes, dtypes and options of an
operation alone. So its first call is recorded, see ``recording``, and under the same key later calls are replayed.

Whatever the recording does not know how to repeat is computed as before, each time, and so is everything while somebody
watches launches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

from . import choice, launch
from .interpreter import INTERPRETED, runs_on_the_cpu
from .recording import Recording
from .replay import Plan

# Plans of one operation, some for each size of the image; beyond, all are made anew.
_MOST_PLANS = 1024
# What Triton specialises an address on.
_ALIGNMENT = 16


class Prepared:
    """An operation that repeats what it did for the same shapes, dtypes and options.

    Args:
        implementation: of the operation: it allocates and launches, and what it does depends on the shapes, strides,
            dtypes and device of its tensors and on its other arguments; its results are tensors, in lists or tuples.
    """

    def __init__(self, implementation: Callable[..., Any]) -> None:
        self._implementation = implementation
        # None: not to be repeated.
        self._plans: dict[tuple[Any, ...], Plan | None] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Return the results of the implementation."""
        if not _may_be_repeated():
            return self._implementation(*arguments)
        tensors: list[Tensor] = []
        key: list[Any] = []
        _describe(arguments, key, tensors)
        if tensors[0].is_cpu and not runs_on_the_cpu():
            return self._implementation(*arguments)  # which says so
        addresses, either = [x.data_ptr() for x in tensors], 0
        for address in addresses:
            either |= address
        if either % _ALIGNMENT:  # Triton compiles kernels of their own for such tensors
            return self._implementation(*arguments)
        found = (*key, *_surroundings(tensors[0].device))
        plan = self._plans.get(found, _UNKNOWN)
        if plan is _UNKNOWN:
            return self._recorded(found, arguments)
        if plan is None:
            return self._implementation(*arguments)
        with launch.on_device_of(tensors[0]):
            return plan.replay(tensors, addresses)

    def _recorded(self, key: tuple[Any, ...], given: Sequence[Any]) -> Any:
        arguments, tensors = _told_apart(given)
        recording = Recording(tensors)
        with recording:
            results = self._implementation(*arguments)
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[key] = recording.plan(results)
        return results


_UNKNOWN: Any = object()


def _describe(arguments: Sequence[Any], key: list[Any], tensors: list[Tensor]) -> None:
    """Add to ``key`` all of the arguments that a plan depends on, and to ``tensors`` those among them."""
    for argument in arguments:
        if type(argument) is list:
            key.append(len(argument))
            values = argument
        else:
            values = (argument,)
        for value in values:
            if isinstance(value, Tensor):
                tensors.append(value)
                key += (value.dtype, value.shape, value.stride(), value.device)
            else:
                key.append(value)


def _told_apart(arguments: Sequence[Any]) -> tuple[list[Any], list[Tensor]]:
    """Return arguments of which no two are the same tensor, and the tensors among them.

    A recording tells operands apart by their identity; those of a later call may differ where these are one.
    """
    tensors: list[Tensor] = []

    def alone(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.detach() if any(value is other for other in tensors) else value
            tensors.append(value)
        return value

    apart = [[alone(x) for x in value] if type(value) is list else alone(value) for value in arguments]
    return apart, tensors


def _surroundings(device: torch.device) -> tuple[Any, ...]:
    """Return all else that a plan depends on, with the device that launches."""
    return (
        driver.active,
        knobs.runtime.debug,
        knobs.compilation.instrumentation_mode,
        torch._C._get_cudnn_allow_tf32(),
        choice.tuned(device),
    )


def _may_be_repeated() -> bool:
    """Return whether kernels are compiled for NVIDIA's GPUs, and nobody watches launches or chooses configurations.

    AMD's kernels are specialised on the size of a tensor's memory too.
    """
    return not (
        INTERPRETED
        or launch.is_watched()
        or launch.is_listened_to()  # another operation that calls this one is being recorded
        or choice.is_overridden()
        or torch.version.hip is not None
        or _has_calls(knobs.runtime.launch_enter_hook)
        or _has_calls(knobs.runtime.launch_exit_hook)
    )


def _has_calls(hook: Any) -> bool:
    """Return whether one of Triton's chains of hooks, or a plain hook in its place, does anything."""
    return bool(getattr(hook, "calls", hook))
