"""Masks of a video: drawn on its frames, and measured in a table. Needs the extra ``video``."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from fastresunet.files import unfinished
from fastresunet.training.files import writing_problems_named
from fastresunet.training.images import to_grey
from fastresunet.training.inference import decide
from fastresunet.training.measurements import measure, measured_columns
from fastresunet.training.overlay import draw_overlay, mask_colours
from fastresunet.training.predictor import Predictor
from fastresunet.training.progress import track
from fastresunet.training.video import Frame, VideoWriter, open_video


def predict_video(predictor: Predictor, path: Path, result: Path, threshold: float) -> Path:
    """Write a video with its masks drawn on it, and a table with a row a frame and class: both whole, or neither.

    Frames are read, computed and written in batches: the length of the video does not matter to the memory.

    Args:
        predictor: computes the probabilities.
        path: video file.
        result: file to write without its suffix: ``.mp4`` and ``.csv`` are added.
        threshold: a pixel is foreground where its probability is above this.

    Returns:
        The ``.mp4`` file; its sound is not copied.

    Raises:
        FloatingPointError: the network gives values that are not finite.
        UnreadableFileError: the video cannot be read.
        UserError: a file cannot be written.
    """
    form = predictor.form
    table, overlay = (result.with_name(result.name + suffix) for suffix in (".csv", ".mp4"))
    with (
        open_video(path) as video,
        writing_problems_named(overlay),
        # The film is put in place last: where it is, its table is.
        unfinished(overlay) as unfinished_overlay,
        unfinished(table) as unfinished_table,
        unfinished_table.open("w", encoding="utf-8", newline="") as file,
        VideoWriter(unfinished_overlay, video.rate) as writer,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["frame", "seconds", *measured_columns(form)])
        predicted = predictor.predict(_with_keys(video.frames, form.channels))
        for frame, image, probabilities in track(predicted, f"Predicting {path.name}", video.count):
            mask = decide(probabilities, threshold)
            time = [frame.number, f"{frame.seconds:.3f}"]
            rows.writerows([*time, *row] for row in measure(mask, probabilities, form))
            writer.write(draw_overlay(image, mask, mask_colours(form)))
    return overlay


def _with_keys(frames: Iterable[Frame], channels: int) -> Iterator[tuple[Frame, Tensor]]:
    for frame in frames:
        yield frame, frame.image if channels == 3 else to_grey(frame.image)
