"""Resize and augment images and masks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2


def resize_image(image: Tensor, size: int) -> Tensor:
    """Stretch an image to a square with antialiased bilinear interpolation.

    Args:
        image: uint8 tensor (3, H, W).
        size: pixels of the new height and width.

    Returns:
        uint8 tensor (3, size, size).
    """
    resized: Tensor = v2.functional.resize(image, [size, size], antialias=True)
    return resized


def resize_mask(mask: Tensor, size: int) -> Tensor:
    """Stretch a mask to a square by taking nearest pixels.

    Args:
        mask: bool tensor (H, W).
        size: pixels of the new height and width.

    Returns:
        bool tensor (size, size).
    """
    resized: Tensor = v2.functional.resize(
        mask[None].to(torch.uint8), [size, size], interpolation=InterpolationMode.NEAREST_EXACT
    )
    return resized[0].bool()


def to_network_input(image: Tensor) -> Tensor:
    """Scale a uint8 image from 0..255 to float32 0..1, as the published model is trained."""
    return image.float() / 255


class Augmentation:
    """Random flips, rotation, shift, zoom and colour changes that keep a polyp image plausible.

    All randomness comes from the global torch generator.
    """

    def __init__(self) -> None:
        self.transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomAffine(
                    degrees=45, translate=(0.1, 0.1), scale=(0.75, 1.25), interpolation=InterpolationMode.BILINEAR
                ),
                v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.02),
            ]
        )

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Change an image and its mask in the same way.

        Args:
            image: uint8 tensor (3, H, W).
            mask: bool tensor (H, W).

        Returns:
            Tensors of the same shapes and dtypes.
        """
        new_image, new_mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask[None].to(torch.uint8)))
        return new_image.as_subclass(Tensor), new_mask.as_subclass(Tensor)[0].bool()
