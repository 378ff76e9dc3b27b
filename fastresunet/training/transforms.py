"""Resize images and masks, and scale them for the network."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


def resize_image(image: Tensor, size: int) -> Tensor:
    """Stretch an image to a square with antialiased bilinear interpolation.

    Args:
        image: uint8 tensor (channels, H, W).
        size: pixels of the new height and width.

    Returns:
        uint8 tensor (channels, size, size).
    """
    resized: Tensor = v2.functional.resize(image, [size, size], antialias=True)
    return resized


def resize_mask(mask: Tensor, size: int) -> Tensor:
    """Stretch a mask to a square by taking nearest pixels.

    Args:
        mask: uint8 tensor (H, W).
        size: pixels of the new height and width.

    Returns:
        uint8 tensor (size, size).
    """
    resized: Tensor = v2.functional.resize(mask[None], [size, size], interpolation=InterpolationMode.NEAREST_EXACT)
    return resized[0]


def to_network_input(image: Tensor) -> Tensor:
    """Scale a uint8 image from 0..255 to float32 0..1, as the published model is trained."""
    return image.float() / 255
