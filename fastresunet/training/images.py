"""Read images and masks as tensors, write tensors as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fastresunet.training.errors import UnreadableFileError, UserError
from fastresunet.training.files import write_atomically

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FOREGROUND_ABOVE = 127
# JPEG may round the three colours of a grey pixel apart by a few levels.
COLOUR_TOLERANCE = 8


def read_image(path: Path) -> Tensor:
    """Read an image file as RGB, turned as its EXIF orientation says; 16-bit grey is scaled to 8 bits.

    Args:
        path: image file.

    Returns:
        uint8 tensor (3, H, W).

    Raises:
        UnreadableFileError: the file is missing, damaged, no image, or of a colour mode without a defined range.
    """
    pixels = _read(path).round().astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=2)
    return torch.from_numpy(pixels[..., :3]).permute(2, 0, 1).contiguous()


def read_mask(path: Path) -> Tensor:
    """Read a mask file; a pixel is foreground where its grey value is above 127 (of 255).

    Args:
        path: mask file.

    Returns:
        bool tensor (H, W).

    Raises:
        UserError: the file cannot be read, see ``read_image``, or its pixels do not say what is foreground: it is
            coloured, partly transparent, or darker than the limit everywhere without being empty.
    """
    pixels = _read(path)
    if pixels.ndim == 3:
        colours = pixels[..., :3]
        if np.ptp(colours, axis=2).max() > COLOUR_TOLERANCE:
            raise _unclear_mask(path, "is coloured")
        if (pixels[..., 3:] < 255).any():
            raise _unclear_mask(path, "has transparent pixels")
        pixels = colours.mean(axis=2)
    mask = pixels > FOREGROUND_ABOVE
    if pixels.any() and not mask.any():
        raise _unclear_mask(path, f"has pixels above 0 but none above {FOREGROUND_ABOVE}, the limit for foreground")
    return torch.from_numpy(mask)


def write_png(path: Path, pixels: Tensor) -> None:
    """Write an image as PNG, completely or not at all.

    Args:
        path: file to write.
        pixels: uint8 tensor (3, H, W) for colour or (H, W) for grey; uint16 tensor (H, W) for 16-bit grey.

    Raises:
        UserError: the file cannot be written.
    """
    array = pixels.cpu().numpy()
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)) if array.ndim == 3 else array).save(encoded, "PNG")
    write_atomically(path, encoded.getvalue())


def _read(path: Path) -> NDArray[Any]:
    """Return levels in 0..255: (H, W) for grey, (H, W, 3) for colour, (H, W, 4) where there is transparency."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
        if image.mode in ("I", "F"):
            raise ValueError(
                f"its pixels are 32-bit numbers (mode {image.mode}) of unknown range; save it with 8 or 16 bits"
            )
        if image.mode.startswith("I;16"):
            return np.asarray(image) / np.float32(257)
        if image.has_transparency_data:
            return np.array(image.convert("RGBA"))
        return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    # Damaged bytes can make the readers of some formats raise anything.
    except Exception as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UnreadableFileError(
            f"cannot read image {path}: {reason}. Replace the file or leave it out, then run again."
        ) from error


def _unclear_mask(path: Path, problem: str) -> UserError:
    return UserError(f"mask {path} {problem}. Save it as 8-bit grey, 0 for background and 255 for polyp.")
