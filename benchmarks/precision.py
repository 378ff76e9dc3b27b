"""The arithmetic a benchmark runs in: float32, TF32, and autocast to bfloat16 and float16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """How products are computed.

    Attributes:
        name: as given on the command line.
        features: dtype of feature maps.
        tf32: whether float32 products are rounded to TF32 on GPUs that can.
    """

    name: str
    features: torch.dtype
    tf32: bool

    @property
    def autocast(self) -> bool:
        """Whether parameters stay float32 and PyTorch casts them to ``features``."""
        return self.features != torch.float32

    @contextmanager
    def active(self, device: torch.device) -> Iterator[None]:
        """Compute inside in this precision.

        ``cudnn.deterministic`` stays off: dilated convolutions are many times slower with it, which would flatter
        everything that is compared with cuDNN. Casts are not cached between calls, which CUDA graphs do not allow.
        """
        convolutions, matrices = torch.backends.cudnn, torch.backends.cuda.matmul
        saved = convolutions.allow_tf32, matrices.allow_tf32, convolutions.deterministic
        convolutions.allow_tf32, matrices.allow_tf32, convolutions.deterministic = self.tf32, self.tf32, False
        try:
            with torch.autocast(device.type, self.features, enabled=self.autocast, cache_enabled=False):
                yield
        finally:
            convolutions.allow_tf32, matrices.allow_tf32, convolutions.deterministic = saved


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", torch.float32, tf32=False),
        Precision("tf32", torch.float32, tf32=True),
        Precision("bf16", torch.bfloat16, tf32=True),
        Precision("fp16", torch.float16, tf32=True),
    )
}


def spacing(precision: Precision) -> float:
    """Return the distance of 1 to the next larger number that products are rounded to."""
    return 2.0**-10 if precision.name == "tf32" else torch.finfo(precision.features).eps


def rounding(precision: Precision, terms: int) -> float:
    """Return the relative error that a few roundings and a float32 sum of ``terms`` explain, as ``tests.numerics``."""
    return 4 * spacing(precision) + torch.finfo(torch.float32).eps * terms**0.5
