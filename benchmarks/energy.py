"""Energy of an image: what the GPU's own counter says over seconds of steps, everything it does meanwhile included."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.nvml import Gpu


def joules_per_image(
    step: Callable[[], object],
    images: int,
    gpu: Gpu | str,
    synchronize: Callable[[], None],
    seconds: float = 3.0,
    now: Callable[[], float] = time.monotonic,
) -> float | str:
    """Return the energy for each image, or why it is not known.

    The counter advances every few tens of milliseconds; a window of seconds makes that negligible.

    Args:
        step: runs a batch.
        images: in the batch.
        gpu: whose counter is read; text says why there is none.
        synchronize: waits for the GPU.
        seconds: length of the window.
        now: clock.
    """
    if isinstance(gpu, str):
        return gpu
    synchronize()
    before, start, steps = gpu.joules(), now(), 0
    if isinstance(before, str):
        return before
    while now() - start < seconds:
        # Some steps ahead at most: the host would otherwise queue steps beyond the window.
        for _ in range(4):
            step()
        synchronize()
        steps += 4
    after = gpu.joules()
    return after if isinstance(after, str) else (after - before) / (steps * images)
