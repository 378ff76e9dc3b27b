"""Pictures that show masks on images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from fastresunet.training.files import write_atomically

TRUTH_COLOUR = (64, 224, 96)
PREDICTION_COLOUR = (64, 200, 255)
FILL_OPACITY = 0.3


def draw_overlay(image: Tensor, mask: Tensor, colour: tuple[int, int, int] = PREDICTION_COLOUR) -> Tensor:
    """Tint the foreground of an image and draw its outline.

    Args:
        image: uint8 tensor (3, H, W).
        mask: bool tensor (H, W).
        colour: red, green and blue in 0..255.

    Returns:
        uint8 tensor (3, H, W).
    """
    paint = torch.tensor(colour, dtype=torch.float32)[:, None, None]
    # The outline is what a dilation adds and an erosion removes; it grows with the image to stay visible.
    radius = max(1, round(min(mask.shape) / 200))
    field = mask[None, None].float()
    width = 2 * radius + 1
    dilated = F.max_pool2d(field, width, stride=1, padding=radius)[0, 0]
    eroded = -F.max_pool2d(-field, width, stride=1, padding=radius)[0, 0]
    opacity = FILL_OPACITY * mask + (1 - FILL_OPACITY * mask) * (dilated - eroded)
    return (image * (1 - opacity) + paint * opacity).round().to(torch.uint8)


def write_sheet(path: Path, rows: Sequence[tuple[Tensor, Tensor, Tensor, str]], title: str) -> None:
    """Write a picture with a row an image: the image, the true mask and the predicted mask on it.

    Args:
        path: PNG file to write.
        rows: image, uint8 tensor (3, H, W); true and predicted mask, bool tensors (H, W); a caption.
        title: text above the sheet.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(6.6, 2.2 * len(rows) + 0.8), layout="constrained")
    # The canvas draws without a display, and leaves the caller's choice of matplotlib backend alone.
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, (image, truth, prediction, caption) in zip(axes, rows, strict=True):
        pictures = image, draw_overlay(image, truth, TRUTH_COLOUR), draw_overlay(image, prediction)
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy())
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        line[2].set_xlabel(caption, fontsize=9)
    for axis, heading in zip(axes[0], ("image", "truth", "prediction"), strict=True):
        axis.set_title(heading, fontsize=10)
    encoded = io.BytesIO()
    figure.savefig(encoded, dpi=130, format="png")
    write_atomically(path, encoded.getvalue())
