"""Where a phase happens: on the GPU, or in a rehearsal that takes every step without one, on a tiny network.

The rehearsal has the kernels executed by the package ``gpu_emulator`` where they are checked, launched over
``benchmarks.stub_driver`` where launches are counted, and PyTorch's backend timed on the CPU. Its times mean nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.networks import NETWORK, ModuleSubject
from benchmarks.timing import Effort
from fastresunet.ops import Backend

REHEARSE = "--rehearse"


@dataclass(frozen=True)
class Stage:
    """Device and sizes.

    Attributes:
        device: that computes.
        subject: the network.
        check_shape: images, and their height and width, that operations are recorded with.
        shapes: the same for the networks that are timed, most telling first.
        effort: to time a case.
        most_units: operations that are checked and layers that are timed at most.
        backend: of what is timed.
    """

    device: torch.device
    subject: ModuleSubject
    check_shape: tuple[int, int]
    shapes: tuple[tuple[int, int], ...]
    effort: Effort
    most_units: int
    backend: Backend

    @property
    def rehearsal(self) -> bool:
        """Whether there is no GPU."""
        return self.device.type == "cpu"

    def checked_backend(self) -> Backend:
        """Return what is checked; in a rehearsal the kernels, if something here can execute them."""
        if not self.rehearsal:
            return "triton"
        if importlib.util.find_spec("gpu_emulator") is None:
            return "torch"
        importlib.import_module("gpu_emulator").activate(arch=90)
        return "triton"


SHAPES = ((8, 256), (1, 256), (32, 256), (16, 256), (16, 352), (8, 512))
_GPU = Stage(
    torch.device("cuda"),
    ModuleSubject(NETWORK),
    check_shape=(2, 256),
    shapes=SHAPES,
    effort=Effort(warmups=2, least=5, most=20, seconds=0.8),
    most_units=100_000,
    backend="triton",
)
_REHEARSAL = Stage(
    torch.device("cpu"),
    ModuleSubject(NETWORK, (8, 8, 8, 16, 16), (1, 3)),
    check_shape=(1, 16),
    shapes=((1, 16),),
    effort=Effort(warmups=1, least=2, most=2, seconds=0.1),
    most_units=4,
    backend="torch",
)


def stage_for(arguments: Sequence[str]) -> Stage:
    """Return the stage that a worker's command line asks for."""
    return _REHEARSAL if REHEARSE in arguments else _GPU
