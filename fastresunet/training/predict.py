"""Segment image and video files with a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fastresunet.training.console import say
from fastresunet.training.data_format import DataFormat
from fastresunet.training.errors import UnreadableFileError, UserError
from fastresunet.training.inference import diverged_checkpoint_named
from fastresunet.training.masks import read_mask, written_form
from fastresunet.training.predict_images import predict_images
from fastresunet.training.prediction_inputs import find_inputs
from fastresunet.training.prediction_table import PredictionTable
from fastresunet.training.predictor import PredictionOptions, Predictor

DEFAULTS = PredictionOptions()
NAMED_FILES = 5


class Predicted(NamedTuple):
    """Files that a prediction has written.

    Attributes:
        masks: of images, in the order of the images.
        videos: with masks drawn on them, in the order of the videos.
    """

    masks: list[Path]
    videos: list[Path]


def predict(
    checkpoint: Path, inputs: Sequence[str | Path], out: Path, options: PredictionOptions = DEFAULTS
) -> Predicted:
    """Write the mask of every image, and every video with its masks drawn on it.

    ``out`` receives ``masks/NAME.png`` of the original size, 0 and 255, or of several classes as ``write_mask`` writes
    them; ``predictions.csv`` with a row an image and class, on request ``overlays`` and ``probabilities``; of videos
    ``videos/NAME.mp4`` and ``videos/NAME.csv``, a row a frame and class.

    Args:
        checkpoint: file of this package or of the published model.
        inputs: image or video files, folders of them, or glob patterns.
        out: folder to write; not a data folder, whose ``masks`` are the truth.
        options: what to compute and to write.

    Returns:
        The files, without those that were already there and left out.

    Raises:
        UserError: the checkpoint or ``out`` cannot be used; or files cannot be read, which are then named after all
            others were predicted. What is written before stays.
    """
    if (out / "images").is_dir():
        raise UserError(
            f"--out {out} is a data folder (it holds images/), and predicted masks would mix with its own in masks/. "
            "Choose another --out, for example predictions."
        )
    images, videos = find_inputs(inputs)
    # Before the work, so that a missing package is told at once.
    predict_video = _video_prediction() if videos else None
    existing: dict[str, Path] = {}
    if options.skip_existing:
        count = len(images) + len(videos)
        existing, images = _existing_apart(images, out / "masks", ".png")
        films, videos = _existing_apart(videos, out / "videos", ".mp4")
        say(f"Already there and left out: {len(existing) + len(films)} of {count} files")
    predictor = Predictor(checkpoint, options)
    unreadable: list[Path] = []

    def leave_out(path: Path, error: UnreadableFileError) -> None:
        say(str(error))
        unreadable.append(path)

    written = Predicted([], [])
    with diverged_checkpoint_named(checkpoint):
        with PredictionTable(out / "predictions.csv", predictor.form, keep=options.skip_existing) as table:
            for name, mask in existing.items():
                if name not in table:
                    table.add(name, _read_written(mask, predictor.form), None)
            written.masks.extend(predict_images(predictor, images, out, options, table, leave_out))
        for name, path in videos.items():
            assert predict_video is not None
            try:
                written.videos.append(predict_video(predictor, path, out / "videos" / name, options.threshold))
            except UnreadableFileError as error:
                leave_out(path, error)
    if unreadable:
        raise UserError(_unreadable_named(unreadable, len(images) + len(videos)))
    return written


def _existing_apart(files: Mapping[str, Path], folder: Path, suffix: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the results that are there, and the files that have none, by name."""
    results = {name: folder / f"{name}{suffix}" for name in files}
    there = {name: result for name, result in results.items() if result.exists()}
    return there, {name: path for name, path in files.items() if name not in there}


def _read_written(mask: Path, form: DataFormat) -> Tensor:
    try:
        return read_mask(mask, written_form(form))
    except UserError as error:
        raise UserError(
            f"{mask} cannot be kept: this checkpoint does not write such masks. Remove it, or choose another --out."
        ) from error


def _video_prediction() -> Callable[[Predictor, Path, Path, float], Path]:
    try:
        from fastresunet.training.predict_video import predict_video  # noqa: PLC0415 - needs the extra "video"
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise UserError('videos are read with PyAV (av). Run: pip install "fastresunet[video]"') from error
    return predict_video


def _unreadable_named(unreadable: Sequence[Path], total: int) -> str:
    listed = ", ".join(map(str, unreadable[:NAMED_FILES]))
    more = f" and {len(unreadable) - NAMED_FILES} more" if len(unreadable) > NAMED_FILES else ""
    others = "; all others are predicted" if len(unreadable) < total else ""
    return (
        f"{len(unreadable)} of {total} files could not be read: {listed}{more}{others}. "
        "Replace or remove what is damaged, then run again with --skip-existing."
    )
