"""Read images and masks as tensors, write tensors as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastresunet.training.errors import UserError
from fastresunet.training.files import write_atomically

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FOREGROUND_ABOVE = 127


def read_image(path: Path) -> Tensor:
    """Read an image file of any colour mode as RGB.

    Args:
        path: image file.

    Returns:
        uint8 tensor (3, H, W).

    Raises:
        UserError: the file is missing, damaged or no image.
    """
    return torch.from_numpy(_read(path, "RGB")).permute(2, 0, 1).contiguous()


def read_mask(path: Path) -> Tensor:
    """Read a mask file; a pixel is foreground where its grey value is above 127.

    Args:
        path: mask file.

    Returns:
        bool tensor (H, W).

    Raises:
        UserError: the file is missing, damaged or no image.
    """
    return torch.from_numpy(_read(path, "L") > FOREGROUND_ABOVE)


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


def _read(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode))
    # Pillow raises SyntaxError and ValueError, besides OSError, for damaged files of some formats.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(
            f"cannot read image {path}: {reason}. Replace the file, or remove it and its partner, then run again."
        ) from error
