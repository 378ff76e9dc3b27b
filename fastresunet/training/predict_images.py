"""Masks of image files, overlays and probabilities beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from fastresunet.training.errors import UnreadableFileError
from fastresunet.training.images import read_image, write_png
from fastresunet.training.overlay import draw_overlay
from fastresunet.training.prediction_table import PredictionTable
from fastresunet.training.predictor import PredictionOptions, Predictor
from fastresunet.training.progress import track
from fastresunet.training.read_ahead import read_ahead

LeaveOut = Callable[[Path, UnreadableFileError], None]


def predict_images(
    predictor: Predictor,
    images: Mapping[str, Path],
    out: Path,
    options: PredictionOptions,
    table: PredictionTable,
    leave_out: LeaveOut,
) -> list[Path]:
    """Write what is predicted for image files, each when its batch is computed.

    Args:
        predictor: computes the probabilities.
        images: files by the name of their results.
        out: folder to write.
        options: the threshold, and what to write beside masks.
        table: gets a row for every mask, after the mask is written.
        leave_out: called with each file that cannot be read.

    Returns:
        The mask files, in the order of the images.

    Raises:
        FloatingPointError: the network gives values that are not finite.
        UserError: a file cannot be written.
    """
    masks = []
    predicted = predictor.predict(_readable(images, 2 * predictor.images_at_once, leave_out))
    with closing(predicted):
        for name, image, probability in track(predicted, "Predicting", len(images)):
            mask = probability > options.threshold
            if options.overlays:
                write_png(out / "overlays" / f"{name}.png", draw_overlay(image, mask))
            if options.probabilities:
                write_png(out / "probabilities" / f"{name}.png", (probability * 65535).round().to(torch.uint16))
            masks.append(out / "masks" / f"{name}.png")
            write_png(masks[-1], mask.to(torch.uint8) * 255)
            table.add(name, mask, probability)
    return masks


def _readable(images: Mapping[str, Path], ahead: int, leave_out: LeaveOut) -> Iterator[tuple[str, Tensor]]:
    def read(path: Path) -> Tensor | UnreadableFileError:
        try:
            return read_image(path)
        except UnreadableFileError as error:
            return error

    for (name, path), image in zip(images.items(), read_ahead(images.values(), read, ahead), strict=True):
        if isinstance(image, UnreadableFileError):
            leave_out(path, image)
        else:
            yield name, image
