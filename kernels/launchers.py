"""The launchers by the names of the operations they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .convolution import conv
from .gradients import conv_backward
from .normalized_sum import conv_norm_sum, conv_norm_sum_backward

LAUNCHERS: dict[str, Callable[..., Any]] = {
    "conv": conv,
    "conv_backward": conv_backward,
    "conv_norm_sum": conv_norm_sum,
    "conv_norm_sum_backward": conv_norm_sum_backward,
}
