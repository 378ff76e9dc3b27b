"""Channels-last layout helpers: feature maps as matrices of pixels by channels, and per-channel vectors as images."""

from __future__ import annotations

import torch
from torch import Tensor

from fastresunet.ops.source import accumulation_dtype


def as_pixels(x: Tensor) -> Tensor:
    """View a channels-last (N, C, H, W) tensor as (N, H * W, C); sums over pixels are fast along that layout."""
    samples, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(samples, height * width, channels)


def as_image(vector: Tensor) -> Tensor:
    """Shape per-channel values (..., C) for arithmetic with an image (N, C, H, W)."""
    return vector[..., None, None]


def sum_pixels(x: Tensor) -> Tensor:
    """Sum a channels-last (N, C, H, W) tensor over its pixels: (N, C), in float32 at least."""
    return as_pixels(x).sum(dim=1, dtype=accumulation_dtype(x.dtype))


def channels_last(x: Tensor) -> Tensor:
    """Return ``x`` in channels-last layout, copied only if it is not in it."""
    return x.contiguous(memory_format=torch.channels_last)


def empty_image(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Return an uninitialised channels-last (N, channels, height, width) tensor with dtype and device of ``like``."""
    shape = (like.shape[0], channels, height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
