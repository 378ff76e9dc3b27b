"""Random changes of whole batches on their device: each image is turned, stretched and coloured in its own way."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Where a range is given as x, factors are drawn from exp(-x) to exp(x).
_SCALE, _ASPECT, _SHEAR, _SHIFT = 0.35, 0.12, 0.15, 0.2
_CONTRAST, _BRIGHTNESS, _SATURATION, _GAMMA = 0.4, 0.35, 0.4, 0.3
_HUE = 0.06  # standard deviation of a factor for each colour
_BLURRED, _NOISY, _NOISE = 0.15, 0.3, 0.03


def augment(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Change a batch at random; randomness comes from the device's global generator.

    Args:
        images: (N, 3, H, W) uint8.
        masks: (N, 1, H, W), bool.

    Returns:
        Images in float32 from 0 to 1, and masks in float32, 0 or 1, of the same shapes.
    """
    grid = _grid(len(images), images.shape[2:], images.device)
    pixels = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    moved = F.grid_sample(masks.float(), grid, padding_mode="reflection", align_corners=False)
    return _noisy(_coloured(pixels)), (moved > 0.5).float()


def _uniform(count: int, half_width: float, device: torch.device) -> Tensor:
    return (2 * torch.rand(count, device=device) - 1) * half_width


def _grid(count: int, size: torch.Size, device: torch.device) -> Tensor:
    angle = _uniform(count, math.pi, device)
    scale, aspect = _uniform(count, _SCALE, device).exp(), _uniform(count, _ASPECT, device).exp()
    shear = _uniform(count, _SHEAR, device)
    flip = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    horizontal, vertical = flip * scale * aspect, scale / aspect
    cosine, sine = angle.cos(), angle.sin()
    first = [cosine * horizontal, shear - sine * vertical, _uniform(count, _SHIFT, device)]
    second = [sine * horizontal, cosine * vertical, _uniform(count, _SHIFT, device)]
    maps = torch.stack([torch.stack(first, 1), torch.stack(second, 1)], 1)
    return F.affine_grid(maps, [count, 1, *size], align_corners=False)


def _coloured(x: Tensor) -> Tensor:
    def drawn(half_width: float) -> Tensor:
        return _uniform(len(x), half_width, x.device)[:, None, None, None]

    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + drawn(_CONTRAST)) + mean * (1 + drawn(_BRIGHTNESS))
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (1 + drawn(_SATURATION)) + grey
    x = x * (1 + _HUE * torch.randn(len(x), 3, 1, 1, device=x.device))
    return x.clamp(0, 1) ** drawn(_GAMMA).exp()


def _noisy(x: Tensor) -> Tensor:
    def chosen(share: float) -> Tensor:
        return torch.rand(len(x), 1, 1, 1, device=x.device) < share

    coarse = F.avg_pool2d(x, 2)
    x = torch.where(chosen(_BLURRED), F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False), x)
    strength = _NOISE * torch.rand(len(x), 1, 1, 1, device=x.device) * chosen(_NOISY)
    return (x + strength * torch.randn_like(x)).clamp(0, 1)
