"""Segment image files with a checkpoint."""

from __future__ import annotations

import glob
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fastresunet.training.data import list_images
from fastresunet.training.errors import UserError
from fastresunet.training.evaluate import load_predictor
from fastresunet.training.images import read_image, write_png
from fastresunet.training.inference import Device, diverged_checkpoint_named, predict_probabilities
from fastresunet.training.overlay import draw_overlay
from fastresunet.training.progress import track
from fastresunet.training.read_ahead import batches, read_ahead
from fastresunet.training.sliding_window import predict_tiled
from fastresunet.training.symmetries import SymmetryEnsemble

# Images, uint8 (3, H, W), with their probabilities, float32 (H, W).
Prediction: TypeAlias = Generator[tuple[Tensor, Tensor], None, None]


def predict(
    checkpoint: Path,
    inputs: Sequence[str | Path],
    out: Path,
    *,
    size: int | None = None,
    tile: int | None = None,
    overlap: float = 0.5,
    augment: bool = False,
    batch_size: int | None = None,
    threshold: float = 0.5,
    overlays: bool = False,
    probabilities: bool = False,
    device: Device = "auto",
    cuda_graphs: bool = True,
) -> list[Path]:
    """Write a mask PNG (0 and 255) of the original size for every image, to ``out/masks``.

    Args:
        checkpoint: file of this package or of the published model.
        inputs: image files, folders of images, or glob patterns.
        out: folder to write; not a data folder, whose ``masks`` are the truth.
        size: height and width for the network, in pixels; None takes that of the training (256 if unknown).
        tile: cover images by tiles of this height and width, in pixels, at their own resolution, instead of stretching
            them to ``size``; see ``predict_tiled``.
        overlap: share of a tile's side that it has in common with the next one, 0 to below 1.
        augment: average the probabilities over 8 flips and quarter turns; see ``SymmetryEnsemble``.
        batch_size: images, or tiles, that the network computes at once; None takes 8 on a GPU and 1 on the CPU, where
            more are slower.
        threshold: a pixel is foreground where its probability is above this.
        overlays: also write the image with its mask drawn on it, to ``out/overlays``.
        probabilities: also write 16-bit grey PNGs, 65535 for probability 1, to ``out/probabilities``.
        device: ``"auto"`` takes CUDA where there is one.
        cuda_graphs: on CUDA, capture the network in a CUDA graph, see ``GraphedInference``.

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
    model, trained_size = load_predictor(checkpoint, device, cuda_graphs)
    batch_size = batch_size or (8 if next(model.parameters()).is_cuda else 1)
    if augment:
        model = SymmetryEnsemble(model)
    if tile is None:
        predicted = _stretched(model, images.values(), size or trained_size, batch_size)
    else:
        predicted = _tiled(model, images.values(), tile, overlap, batch_size)
    masks = []
    with closing(predicted), diverged_checkpoint_named(checkpoint):
        for name, (image, probability) in zip(images, track(predicted, "Predicting", len(images)), strict=True):
            mask = probability > threshold
            if overlays:
                write_png(out / "overlays" / f"{name}.png", draw_overlay(image, mask))
            if probabilities:
                write_png(out / "probabilities" / f"{name}.png", (probability * 65535).round().to(torch.uint16))
            masks.append(out / "masks" / f"{name}.png")
            write_png(masks[-1], mask.to(torch.uint8) * 255)
    return masks


def _stretched(model: nn.Module, paths: Iterable[Path], size: int, batch_size: int) -> Prediction:
    for images in batches(read_ahead(paths, read_image, ahead=2 * batch_size), batch_size):
        yield from zip(images, predict_probabilities(model, images, size), strict=True)


def _tiled(model: nn.Module, paths: Iterable[Path], tile: int, overlap: float, batch_size: int) -> Prediction:
    # Images worth tiling are large: hold few of them.
    for image in read_ahead(paths, read_image, ahead=2):
        yield image, predict_tiled(model, image, tile, overlap=overlap, batch_size=batch_size)


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
