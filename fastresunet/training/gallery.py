"""Small pictures of images with their true and predicted masks."""

from __future__ import annotations

import io
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fastresunet.training.data_format import KVASIR_SEG, DataFormat
from fastresunet.training.overlay import draw_overlay, mask_colours

# JPEGs of this many pixels take about 10 KB each.
LONGER_SIDE = 320
JPEG_QUALITY = 80


class Thumbnails(NamedTuple):
    """JPEG files of one image.

    Args:
        image: the image.
        truth: the true mask drawn on it.
        prediction: the predicted mask drawn on it.
    """

    image: bytes
    truth: bytes
    prediction: bytes


class Gallery:
    """Thumbnails of the images of an evaluation, in its order.

    Args:
        form: of its masks.
    """

    def __init__(self, form: DataFormat = KVASIR_SEG) -> None:
        self.form = form
        self.thumbnails: list[Thumbnails] = []

    def add(self, image: Tensor, truth: Tensor, prediction: Tensor) -> None:
        """Draw an image and keep the pictures.

        Args:
            image: uint8 tensor (channels, H, W).
            truth: class of each pixel, uint8 tensor (H, W).
            prediction: class of each pixel, uint8 tensor (H, W).
        """
        small = shrink(image.float()).round().clamp(0, 255).expand(3, -1, -1)
        classes = torch.arange(len(self.form.foreground_names) + 1)[:, None, None]
        masks = [shrink((mask == classes).float()).argmax(0).byte() for mask in (truth, prediction)]
        colours = mask_colours(self.form, truth=True), mask_colours(self.form)
        pictures = small, *(draw_overlay(small, *mask) for mask in zip(masks, colours, strict=True))
        self.thumbnails.append(Thumbnails(*map(_jpeg, pictures)))


def shrink(pixels: Tensor) -> Tensor:
    """Shrink an image until its longer side has 320 pixels; a smaller one stays as it is.

    Args:
        pixels: float32 tensor (channels, H, W).
    """
    height, width = pixels.shape[1:]
    scale = LONGER_SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]


def _jpeg(picture: Tensor) -> bytes:
    encoded = io.BytesIO()
    pixels = picture.byte().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return encoded.getvalue()
