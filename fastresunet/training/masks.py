"""Read and write masks: images whose pixels say the class of their place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastresunet.training.data_format import KVASIR_SEG, Colour, DataFormat
from fastresunet.training.errors import UserError
from fastresunet.training.images import opened, read_pixels, save_png, write_png

FOREGROUND_ABOVE = 127
# JPEG may round the three colours of a grey pixel apart by a few levels.
COLOUR_TOLERANCE = 8
NAMED_VALUES = 5
# Their pixels are near to what was saved: enough for black and white, too little for numbers and colours.
CHANGING_SUFFIXES = (".jpg", ".jpeg")


def read_mask(path: Path, form: DataFormat = KVASIR_SEG) -> Tensor:
    """Read a mask file.

    Args:
        path: mask file.
        form: which pixels are of which class. Of files with a palette, its indices count as grey levels, unless the
            classes are given by colours.

    Returns:
        Class of each pixel, uint8 tensor (H, W); 0 is the background.

    Raises:
        UnreadableFileError: the file cannot be read, see ``read_image``.
        UserError: its pixels do not say their class: a value is that of none, or some are transparent; or, where only
            foreground and background are told apart, it is coloured, or too dark everywhere without being empty.
    """
    if form.classes:
        return torch.from_numpy(_read_classes(path, form))
    if form.foreground:
        levels = _read_levels(path)
        if levels.ndim == 3:
            raise UserError(f"mask {path} is coloured; foreground values are grey levels. Name colours in --classes.")
        return torch.from_numpy(np.isin(levels, form.foreground).astype(np.uint8))
    return torch.from_numpy(_read_foreground(path).astype(np.uint8))


def write_mask(path: Path, mask: Tensor, form: DataFormat = KVASIR_SEG) -> None:
    """Write a mask as PNG, as ``read_mask`` reads it: completely or not at all.

    Without classes foreground is 255, whatever ``form`` says of files that are read. Classes are a palette's indices:
    of those given by grey levels these, shown in the colours of ``form``, and of others their number, in their own.

    Args:
        path: file to write.
        mask: uint8 tensor (H, W).
        form: the classes.

    Raises:
        UserError: the file cannot be written.
    """
    if not form.classes:
        write_png(path, mask * 255)
        return
    palette = np.zeros((256, 3), np.uint8)
    indices = [*range(len(form.classes))]
    if form.in_colours:
        palette[indices] = [_colour(each.value) for each in form.classes]
    else:
        indices = [each.value for each in form.classes if isinstance(each.value, int)]
        palette[indices[1:]] = form.colours
    image = Image.fromarray(np.array(indices, np.uint8)[mask.cpu().numpy()])
    image.putpalette(palette.tobytes())
    save_png(path, image)


def written_form(form: DataFormat) -> DataFormat:
    """Return the format of what ``write_mask`` writes."""
    return replace(form, foreground=())


def _read_foreground(path: Path) -> NDArray[np.bool_]:
    pixels = read_pixels(path)
    if pixels.ndim == 3:
        colours = pixels[..., :3]
        if np.ptp(colours, axis=2).max() > COLOUR_TOLERANCE:
            raise UserError(
                f"mask {path} is coloured. Save it as 8-bit grey, 0 for background and 255 for polyp; or give "
                "--classes a file with the colours of its classes."
            )
        if (pixels[..., 3:] < 255).any():
            raise _unclear(path, "has transparent pixels")
        pixels = colours.mean(axis=2)
    mask: NDArray[np.bool_] = pixels > FOREGROUND_ABOVE
    if pixels.any() and not mask.any():
        raise _unclear(path, f"has pixels above 0 but none above {FOREGROUND_ABOVE}, the limit for foreground")
    return mask


def _read_classes(path: Path, form: DataFormat) -> NDArray[np.uint8]:
    levels = _read_levels(path, in_colours=form.in_colours)
    if levels.ndim == 3 and not form.in_colours:
        raise UserError(
            f"mask {path} is coloured, but the classes are given by grey levels. Give "
            "--classes a file with their colours, such as 'polyp #ff0000'."
        )
    values = np.array([_packed(each.value) if form.in_colours else each.value for each in form.classes], np.int64)
    found = _packed_pixels(levels) if form.in_colours else levels.astype(np.int64)
    order = values.argsort()
    places = np.searchsorted(values[order], found).clip(max=len(values) - 1)
    unknown = values[order][places] != found
    if unknown.any():
        raise UserError(_unknown_named(path, np.unique(found[unknown]), form))
    numbers: NDArray[np.uint8] = order[places].astype(np.uint8)
    return numbers


def _read_levels(path: Path, in_colours: bool = False) -> NDArray[Any]:
    """Return pixels as they are stored: (H, W) for grey levels and indices, (H, W, 3) for colours."""
    if path.suffix.lower() in CHANGING_SUFFIXES:
        raise UserError(
            f"mask {path} is a JPEG, which changes pixel values: save masks as PNG, from where they are made."
        )
    opacity = 255
    with opened(path) as image:
        if image.mode in ("1", "L", "I") or image.mode.startswith("I;16") or (image.mode == "P" and not in_colours):
            return np.asarray(image)
        if image.mode == "F":
            raise ValueError("its pixels are fractions, not numbers of classes")
        if image.has_transparency_data:
            opacity = np.asarray(image.convert("RGBA"))[..., 3].min()
        colours = np.asarray(image.convert("RGB"))
    if opacity < 255:
        # What transparent pixels hold is not what people see.
        raise _unclear(path, "has transparent pixels")
    grey = not in_colours and np.ptp(colours, axis=2).max(initial=0) == 0
    return colours[..., 0] if grey else colours


def _colour(value: int | Colour) -> Colour:
    return (value, value, value) if isinstance(value, int) else value


def _packed(value: int | Colour) -> int:
    red, green, blue = _colour(value)
    return red << 16 | green << 8 | blue


def _packed_pixels(levels: NDArray[Any]) -> NDArray[np.int64]:
    if levels.ndim == 2:
        levels = np.stack([levels] * 3, axis=2)
    red, green, blue = (levels[..., i].astype(np.int64) for i in range(3))
    return red << 16 | green << 8 | blue


def _unknown_named(path: Path, values: NDArray[np.int64], form: DataFormat) -> str:
    named = [f"#{value:06x}" if form.in_colours else str(value) for value in values[:NAMED_VALUES]]
    more = f" and {len(values) - NAMED_VALUES} more" if len(values) > NAMED_VALUES else ""
    known = ", ".join(map(str, form.classes[:NAMED_VALUES])) + (", ..." if len(form.classes) > NAMED_VALUES else "")
    return (
        f"mask {path} has pixels of {', '.join(named)}{more}, which is no class; expected: {known}. Give --classes "
        "another number, or a file with all pixel values."
    )


def _unclear(path: Path, problem: str) -> UserError:
    return UserError(
        f"mask {path} {problem}. Save it as 8-bit grey, 0 for background and 255 for polyp; or say what its pixels "
        "mean: --foreground VALUE (1 for masks of 0 and 1), or --classes."
    )
