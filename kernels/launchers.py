"""The launchers by the names of the operations they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .batch_affine import batch_affine
from .batch_affine_gradient import batch_affine_backward
from .convolution import conv
from .excitation import excitation, excitation_backward
from .gradients import conv_backward, conv_gradients
from .normalized_sum import branch_gradient, conv_norm_sum, conv_norm_sum_backward

LAUNCHERS: dict[str, Callable[..., Any]] = {
    "batch_affine": batch_affine,
    "batch_affine_backward": batch_affine_backward,
    "branch_gradient": branch_gradient,
    "conv": conv,
    "conv_backward": conv_backward,
    "conv_gradients": conv_gradients,
    "excitation": excitation,
    "excitation_backward": excitation_backward,
    "conv_norm_sum": conv_norm_sum,
    "conv_norm_sum_backward": conv_norm_sum_backward,
}
