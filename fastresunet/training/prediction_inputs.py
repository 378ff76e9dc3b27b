"""Which image and video files the words of a command line mean."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastresunet.training.data import list_images
from fastresunet.training.errors import UserError
from fastresunet.training.images import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4")


class Inputs(NamedTuple):
    """Files to predict, by their name without suffix.

    Attributes:
        images: image files.
        videos: video files.
    """

    images: dict[str, Path]
    videos: dict[str, Path]


def find_inputs(inputs: Sequence[str | Path]) -> Inputs:
    """Expand files, folders and glob patterns to image and video files.

    Args:
        inputs: image or video files, folders of them, or glob patterns.

    Raises:
        UserError: an input matches nothing, or two files would be written to the same one.
    """
    found = Inputs({}, {})
    for entry in map(str, inputs):
        paths = _files(Path(entry)) if Path(entry).is_dir() else _matches(entry)
        if not paths:
            raise UserError(
                f"{entry!r} matches no file. Give image or video files, a folder of them or a quoted glob pattern."
            )
        for path in paths:
            files, result = (found.videos, "mp4") if _is_video(path) else (found.images, "png")
            if files.setdefault(path.stem, path).resolve() != path.resolve():
                raise UserError(
                    f"{files[path.stem]} and {path} would both write {path.stem}.{result}; "
                    "predict them to different --out."
                )
    return found


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    videos = [path for path in files if _is_video(path)]
    if videos and not any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
        return videos
    return [*list_images(folder).values(), *videos]


def _matches(entry: str) -> list[Path]:
    # A file whose name holds brackets is a file, not a pattern.
    return [Path(entry)] if Path(entry).exists() else [Path(match) for match in sorted(glob.glob(entry))]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES
