"""The launchers by the names of the operations they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .batch_affine import batch_affine
from .batch_affine_gradient import batch_affine_backward
from .convolution import conv
from .excitation import conv_excitation, excitation, excitation_backward
from .folded import folded_conv, folded_excited_conv
from .gradients import conv_backward, conv_gradients
from .merged_affine import conv_batch_affine
from .normalized_sum import branch_gradient, conv_norm_sum, conv_norm_sum_backward
from .pack import pack_weights
from .pyramid import folded_pyramid

LAUNCHERS: dict[str, Callable[..., Any]] = {
    "batch_affine": batch_affine,
    "batch_affine_backward": batch_affine_backward,
    "branch_gradient": branch_gradient,
    "conv": conv,
    "conv_backward": conv_backward,
    "conv_batch_affine": conv_batch_affine,
    "conv_excitation": conv_excitation,
    "conv_gradients": conv_gradients,
    "excitation": excitation,
    "excitation_backward": excitation_backward,
    "conv_norm_sum": conv_norm_sum,
    "conv_norm_sum_backward": conv_norm_sum_backward,
    "folded_conv": folded_conv,
    "folded_excited_conv": folded_excited_conv,
    "folded_pyramid": folded_pyramid,
    "pack_weights": pack_weights,
}
