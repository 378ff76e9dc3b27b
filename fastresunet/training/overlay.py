"""Pictures that show masks on images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torch.nn import functional as F

from fastresunet.training.data_format import KVASIR_SEG, Colour, DataFormat
from fastresunet.training.files import write_atomically

# Of masks with a foreground alone, truth and prediction are told apart by their colours.
TRUTH_COLOUR = (64, 224, 96)
PREDICTION_COLOUR = (64, 200, 255)
FILL_OPACITY = 0.3


def mask_colours(form: DataFormat, truth: bool = False) -> Sequence[Colour]:
    """Return the colours to draw masks with.

    Args:
        form: of the masks; several classes have a colour each.
        truth: whether the masks are true, not predicted.
    """
    if form.classes:
        return form.colours
    return (TRUTH_COLOUR if truth else PREDICTION_COLOUR,)


def draw_overlay(image: Tensor, mask: Tensor, colours: Sequence[Colour] = (PREDICTION_COLOUR,)) -> Tensor:
    """Tint the classes of an image and draw their outlines.

    Args:
        image: uint8 tensor (3, H, W), or (1, H, W) in grey.
        mask: class of each pixel, uint8 tensor (H, W); 0 is not drawn.
        colours: red, green and blue in 0..255 of the classes 1, 2, ...

    Returns:
        uint8 tensor (3, H, W).
    """
    # The outline is what a dilation adds and an erosion removes; it grows with the image to stay visible.
    radius = max(1, round(min(mask.shape) / 200))
    width = 2 * radius + 1
    picture = image.expand(3, -1, -1)
    for number in mask.unique().tolist():
        if number == 0:
            continue
        field = (mask == number)[None, None].float()
        dilated = F.max_pool2d(field, width, stride=1, padding=radius)[0, 0]
        eroded = -F.max_pool2d(-field, width, stride=1, padding=radius)[0, 0]
        tint = FILL_OPACITY * field[0, 0]
        # Where classes may touch, each keeps its outline to itself.
        outside = dilated if len(colours) == 1 else field[0, 0]
        opacity = tint + (1 - tint) * (outside - eroded)
        paint = torch.tensor(colours[number - 1], dtype=torch.float32)[:, None, None]
        picture = (picture * (1 - opacity) + paint * opacity).round().to(torch.uint8)
    return picture.contiguous()


class SheetRow(NamedTuple):
    """An image with its masks.

    Attributes:
        image: uint8 tensor (channels, H, W).
        truth: true class of each pixel, uint8 tensor (H, W).
        prediction: predicted class of each pixel, uint8 tensor (H, W).
        caption: text below.
    """

    image: Tensor
    truth: Tensor
    prediction: Tensor
    caption: str


def write_sheet(path: Path, rows: Sequence[SheetRow], title: str, form: DataFormat = KVASIR_SEG) -> None:
    """Write a picture with a row an image: the image, the true mask and the predicted mask on it.

    Args:
        path: PNG file to write.
        rows: what to show.
        title: text above the sheet.
        form: of the masks; their classes are listed with their colours.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(6.6, 2.2 * len(rows) + 0.8), layout="constrained")
    # The canvas draws without a display, and leaves the caller's choice of matplotlib backend alone.
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, (image, truth, prediction, caption) in zip(axes, rows, strict=True):
        drawn = (draw_overlay(image, mask, mask_colours(form, truth=mask is truth)) for mask in (truth, prediction))
        pictures = image.expand(3, -1, -1), *drawn
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy())
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        line[2].set_xlabel(caption, fontsize=9)
    for axis, heading in zip(axes[0], ("image", "truth", "prediction"), strict=True):
        axis.set_title(heading, fontsize=10)
    if form.classes:
        names = zip(form.foreground_names, form.colours, strict=True)
        handles = [Patch(color="#{:02x}{:02x}{:02x}".format(*colour), label=name) for name, colour in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    encoded = io.BytesIO()
    figure.savefig(encoded, dpi=130, format="png")
    write_atomically(path, encoded.getvalue())
