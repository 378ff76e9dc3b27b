"""One branch of a sum of normalised convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Branch:
    """One convolution and the BatchNorm after it.

    Attributes:
        weight: (C_out, C_in, k, k) with k = 1 or 3.
        bias: (C_out,).
        dilation: spacing of the taps in pixels.
        gamma: BatchNorm weight (C_out,).
        beta: BatchNorm bias (C_out,).
        eps: added to the variance.
        running_mean: (C_out,), used together with ``running_var`` in place of batch statistics if given.
        running_var: (C_out,).
    """

    weight: Tensor
    bias: Tensor
    dilation: int
    gamma: Tensor
    beta: Tensor
    eps: float
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
