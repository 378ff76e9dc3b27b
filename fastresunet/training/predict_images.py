"""Masks of image files, overlays and probabilities beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from fastresunet.training.data_format import DataFormat
from fastresunet.training.errors import UnreadableFileError
from fastresunet.training.images import read_image, write_png
from fastresunet.training.inference import decide
from fastresunet.training.masks import write_mask
from fastresunet.training.overlay import draw_overlay, mask_colours
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
    masks, form = [], predictor.form
    predicted = predictor.predict(_readable(images, form.channels, 2 * predictor.images_at_once, leave_out))
    with closing(predicted):
        for name, image, probabilities in track(predicted, "Predicting", len(images)):
            mask = decide(probabilities, options.threshold)
            if options.overlays:
                write_png(out / "overlays" / f"{name}.png", draw_overlay(image, mask, mask_colours(form)))
            if options.probabilities:
                for file, probability in zip(_probability_files(name, form), probabilities, strict=True):
                    write_png(out / "probabilities" / file, (probability * 65535).round().to(torch.uint16))
            masks.append(out / "masks" / f"{name}.png")
            write_mask(masks[-1], mask, form)
            table.add(name, mask, probabilities)
    return masks


def _probability_files(name: str, form: DataFormat) -> list[str]:
    if not form.classes:
        return [f"{name}.png"]
    # Names of classes may hold what names of files may not, and then be alike.
    classes = (re.sub(r"[^\w-]+", "-", each.name) for each in form.classes)
    return [f"{name}.{number}-{each}.png" for number, each in enumerate(classes)]


def _readable(
    images: Mapping[str, Path], channels: int, ahead: int, leave_out: LeaveOut
) -> Iterator[tuple[str, Tensor]]:
    def read(path: Path) -> Tensor | UnreadableFileError:
        try:
            return read_image(path, channels)
        except UnreadableFileError as error:
            return error

    for (name, path), image in zip(images.items(), read_ahead(images.values(), read, ahead), strict=True):
        if isinstance(image, UnreadableFileError):
            leave_out(path, image)
        else:
            yield name, image
