"""How a fused operation reads a feature map: per-sample affine, ReLU and upsampling on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# How operations take their sources, see ``flatten``.
SCHEMA = "Tensor[] data, Tensor[] affine, bool[] relu, bool[] upsample"


@dataclass(frozen=True, eq=False)
class Source:
    """One input of a fused operation, read as ``h = relu((data - center) * scale + shift)``.

    Padding is zero after the affine and the ReLU. Subtracting a centre first keeps the sums of the backward pass
    accurate where the mean of a channel is much larger than its spread.

    Attributes:
        data: raw features (N, C, H, W), usually the output of an earlier convolution.
        affine: (3, N, C) with centre, scale and shift of every sample and channel, or (1, N, C) with a scale alone, in
            float32 (float64 for float64 data); ``None`` reads ``data`` as it is.
        relu: apply the ReLU.
        upsample: read at twice the resolution, every pixel repeated 2x2 (nearest neighbour).
    """

    data: Tensor
    affine: Tensor | None = None
    relu: bool = False
    upsample: bool = False

    @property
    def height(self) -> int:
        """Rows as the operation sees them."""
        return self.data.shape[2] * (2 if self.upsample else 1)

    @property
    def width(self) -> int:
        """Columns as the operation sees them."""
        return self.data.shape[3] * (2 if self.upsample else 1)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of statistics and vectors for features of ``dtype``: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def flatten(sources: Sequence[Source], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[bool], list[bool]]:
    """Return data (channels-last, in ``dtype``), affine (empty for ``None``), ReLU and upsampling of every source."""
    data = [source.data.to(dtype).contiguous(memory_format=torch.channels_last) for source in sources]
    empty = [source.data.new_empty(0) if source.affine is None else source.affine.contiguous() for source in sources]
    return data, empty, [source.relu for source in sources], [source.upsample for source in sources]


def convolution_size(size: int, upsample: bool, stride: int) -> int:
    """Return the rows or columns of a "same" convolution's output."""
    return ((2 * size if upsample else size) - 1) // stride + 1
