"""Per-sample, per-channel mean and sum of squared deviations, and their gradient."""

from __future__ import annotations

from torch import Tensor

from fastresunet.ops.layout import as_image, as_pixels
from fastresunet.ops.source import accumulation_dtype


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and M2 = sum over pixels of (x - mean)^2, each (N, C), computed in two passes (no cancellation)."""
    pixels = as_pixels(x).to(accumulation_dtype(x.dtype))
    mean = pixels.mean(dim=1)
    m2 = (pixels - mean[:, None]).square_().sum(dim=1)
    return mean, m2


def statistics_gradient(statistics: Tensor, x: Tensor) -> Tensor:
    """Return the gradient that reaches ``x`` through its statistics: ``dmean / (H W) + 2 dM2 (x - mean)``.

    Args:
        statistics: mean, and the gradients of M2 and mean (3, N, C).
        x: (N, C, H, W).
    """
    mean, grad_m2, grad_mean = map(as_image, statistics)
    pixel_count = x.shape[2] * x.shape[3]
    return (x - mean).mul_(2 * grad_m2).add_(grad_mean / pixel_count)
