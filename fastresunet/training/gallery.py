"""Small pictures of images with their true and predicted masks."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fastresunet.training.overlay import TRUTH_COLOUR, draw_overlay

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
    """Thumbnails of the images of an evaluation, in its order."""

    def __init__(self) -> None:
        self.thumbnails: list[Thumbnails] = []

    def add(self, image: Tensor, truth: Tensor, prediction: Tensor) -> None:
        """Draw an image and keep the pictures.

        Args:
            image: uint8 tensor (3, H, W).
            truth: bool tensor (H, W).
            prediction: bool tensor (H, W).
        """
        small = shrink(image.float()).round().clamp(0, 255)
        small_truth, small_prediction = (shrink(mask[None].float())[0] > 0.5 for mask in (truth, prediction))
        pictures = small, draw_overlay(small, small_truth, TRUTH_COLOUR), draw_overlay(small, small_prediction)
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
