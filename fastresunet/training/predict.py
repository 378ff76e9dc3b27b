"""Segment image files with a checkpoint."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import torch

from fastresunet.training.data import list_images
from fastresunet.training.errors import UserError
from fastresunet.training.evaluate import load_binary_model
from fastresunet.training.images import read_image, write_png
from fastresunet.training.inference import Device, diverged_checkpoint_named, predict_probability
from fastresunet.training.overlay import draw_overlay
from fastresunet.training.progress import track


def predict(
    checkpoint: Path,
    inputs: Sequence[str | Path],
    out: Path,
    *,
    size: int | None = None,
    threshold: float = 0.5,
    overlays: bool = False,
    probabilities: bool = False,
    device: Device = "auto",
) -> list[Path]:
    """Write a mask PNG (0 and 255) of the original size for every image, to ``out/masks``.

    Args:
        checkpoint: file of this package or of the published model.
        inputs: image files, folders of images, or glob patterns.
        out: folder to write; not a data folder, whose ``masks`` are the truth.
        size: height and width for the network, in pixels; None takes that of the training (256 if unknown).
        threshold: a pixel is foreground where its probability is above this.
        overlays: also write the image with its mask drawn on it, to ``out/overlays``.
        probabilities: also write 16-bit grey PNGs, 65535 for probability 1, to ``out/probabilities``.
        device: ``"auto"`` takes CUDA where there is one.

    Returns:
        The mask files, in the order of the images.

    Raises:
        UserError: the checkpoint, an image or ``out`` cannot be used. Masks written before stay.
    """
    if (out / "images").is_dir():
        raise UserError(
            f"--out {out} is a data folder (it holds images/), and predicted masks would mix with its own in masks/. "
            "Choose another --out, for example predictions."
        )
    images = find_inputs(inputs)
    model, trained_size = load_binary_model(checkpoint, device)
    masks = []
    for name, path in track(images.items(), "Predicting", len(images)):
        image = read_image(path)
        with diverged_checkpoint_named(checkpoint):
            probability = predict_probability(model, image, size or trained_size)
        mask = probability > threshold
        if overlays:
            write_png(out / "overlays" / f"{name}.png", draw_overlay(image, mask))
        if probabilities:
            write_png(out / "probabilities" / f"{name}.png", (probability * 65535).round().to(torch.uint16))
        masks.append(out / "masks" / f"{name}.png")
        write_png(masks[-1], mask.to(torch.uint8) * 255)
    return masks


def find_inputs(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """Expand files, folders and glob patterns to image files by their name without suffix.

    Args:
        inputs: image files, folders of images, or glob patterns.

    Raises:
        UserError: an input matches nothing, or two images would write the same mask.
    """
    images: dict[str, Path] = {}
    for entry in map(str, inputs):
        if Path(entry).is_dir():
            found = [*list_images(Path(entry)).values()]
        else:
            # A file whose name holds brackets is a file, not a pattern.
            found = [Path(entry)] if Path(entry).exists() else [Path(match) for match in sorted(glob.glob(entry))]
        if not found:
            raise UserError(
                f"{entry!r} matches no file. Give image files, a folder of images or a quoted glob pattern."
            )
        for path in found:
            if images.setdefault(path.stem, path).resolve() != path.resolve():
                raise UserError(
                    f"{images[path.stem]} and {path} would both write {path.stem}.png; predict them to different --out."
                )
    return images
