"""Read images as tensors, write tensors as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fastresunet.training.errors import UnreadableFileError
from fastresunet.training.files import write_atomically

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Parts of red, green and blue in grey, of 2 ** 16: ITU-R BT.601, as Pillow rounds them.
LUMINANCE = (19595, 38470, 7471)


def read_image(path: Path, channels: int = 3) -> Tensor:
    """Read an image file, turned as its EXIF orientation says; 16-bit grey is scaled to 8 bits.

    Args:
        path: image file.
        channels: 3 gives RGB, 1 grey.

    Returns:
        uint8 tensor (channels, H, W).

    Raises:
        UnreadableFileError: the file is missing, damaged, no image, or of a colour mode without a defined range.
    """
    pixels = torch.from_numpy(read_pixels(path).round().astype(np.uint8))
    if pixels.ndim == 2:
        return pixels.expand(channels, -1, -1).contiguous()
    colours = pixels[..., :3].permute(2, 0, 1)
    return to_grey(colours) if channels == 1 else colours.contiguous()


def to_grey(image: Tensor) -> Tensor:
    """Return the luminance of an image, as Pillow computes it.

    Args:
        image: uint8 tensor (3, H, W).

    Returns:
        uint8 tensor (1, H, W).
    """
    red, green, blue = (weight * level.to(torch.int32) for weight, level in zip(LUMINANCE, image, strict=True))
    return ((red + green + blue + (1 << 15)) >> 16).to(torch.uint8)[None]


def write_png(path: Path, pixels: Tensor) -> None:
    """Write an image as PNG, completely or not at all.

    Args:
        path: file to write.
        pixels: uint8 tensor (3, H, W) for colour or (H, W) for grey; uint16 tensor (H, W) for 16-bit grey.

    Raises:
        UserError: the file cannot be written.
    """
    array = pixels.cpu().numpy()
    save_png(path, Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)) if array.ndim == 3 else array))


def save_png(path: Path, image: Image.Image) -> None:
    """Write an image as PNG, completely or not at all.

    Args:
        path: file to write.
        image: of Pillow.

    Raises:
        UserError: the file cannot be written.
    """
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    write_atomically(path, encoded.getvalue())


def read_pixels(path: Path) -> NDArray[Any]:
    """Return levels in 0..255: (H, W) for grey, (H, W, 3) for colour, (H, W, 4) where there is transparency.

    Args:
        path: image file.

    Raises:
        UnreadableFileError: as ``read_image`` does.
    """
    with opened(path) as image:
        if image.mode in ("I", "F"):
            raise ValueError(
                f"its pixels are 32-bit numbers (mode {image.mode}) of unknown range; save it with 8 or 16 bits"
            )
        if image.mode.startswith("I;16"):
            return np.asarray(image) / np.float32(257)
        if image.has_transparency_data:
            return np.array(image.convert("RGBA"))
        return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file, turned as its EXIF orientation says.

    Args:
        path: image file.

    Raises:
        UnreadableFileError: the file cannot be opened, or anything is raised in the block, where it is decoded.
    """
    try:
        with Image.open(path) as file:
            yield ImageOps.exif_transpose(file)
    # Damaged bytes can make the readers of some formats raise anything.
    except Exception as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UnreadableFileError(
            f"cannot read image {path}: {reason}. Replace the file or leave it out, then run again."
        ) from error
