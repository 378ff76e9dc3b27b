"""Video files, frame by frame, through PyAV: RGB tensors in and out. Needs the extra ``video``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from torch import Tensor

from fastresunet.training.errors import UnreadableFileError

# Every player shows H.264, but builds of FFmpeg under the LGPL alone do not write it.
H264, MPEG4 = "libx264", "mpeg4"
# Visually lossless for libx264; mpeg4 has no such measure and gets a rate.
CONSTANT_QUALITY = "18"
MPEG4_BITS_PER_PIXEL = 0.3
# Frame rates as televisions have them, such as 30000/1001, within what MPEG-4 can write.
LARGEST_DENOMINATOR = 1001


class Frame(NamedTuple):
    """One frame of a video.

    Attributes:
        number: counted from 0.
        seconds: when it is shown.
        image: uint8 tensor (3, H, W), upright.
    """

    number: int
    seconds: float
    image: Tensor


@dataclass(frozen=True)
class Video:
    """An open video.

    Attributes:
        rate: frames a second, on average.
        count: number of frames that the file says it has; None where it does not.
        frames: decoded one by one, when asked for.
    """

    rate: Fraction
    count: int | None
    frames: Iterator[Frame]


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open the first video stream of a file.

    Args:
        path: video file of any format that FFmpeg reads.

    Raises:
        UnreadableFileError: the file is damaged or no video; ``frames`` raises it too.
    """
    with ExitStack() as opened:
        with _problems_named(path):
            container = opened.enter_context(av.open(str(path)))
            if not container.streams.video:
                raise ValueError("it has no pictures")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = stream.average_rate or stream.guessed_rate
            if not rate:
                raise ValueError("it does not say how many frames a second it has")
        rate = rate.limit_denominator(LARGEST_DENOMINATOR)
        yield Video(rate, stream.frames or None, _frames(path, container, stream, rate))


def _frames(path: Path, container: InputContainer, stream: VideoStream, rate: Fraction) -> Iterator[Frame]:
    count, width, height = 0, None, None
    with _problems_named(path):
        for count, frame in enumerate(container.decode(stream), 1):
            # A stream may change its size; the first one counts.
            width, height = width or frame.width, height or frame.height
            pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
            upright = np.rot90(pixels, frame.rotation // 90)
            image = torch.from_numpy(np.ascontiguousarray(upright.transpose(2, 0, 1)))
            yield Frame(count - 1, float((count - 1) / rate) if frame.time is None else frame.time, image)
        if count == 0:
            raise ValueError("it has no frame")


@contextmanager
def _problems_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableFileError(
            f"cannot read video {path}: {reason}. Replace the file or leave it out, then run again."
        ) from error


class VideoWriter:
    """Writes frames of equal size to an MP4 file; complete at the end of its context.

    An odd height or width grows by one pixel, a copy of the last: H.264 with the usual colour format has even ones.

    Args:
        path: file to write, of any name.
        rate: frames a second.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        with _as_os_errors():
            self._container = av.open(str(path), "w", format="mp4")
        self._rate = rate
        self._stream: VideoStream | None = None
        self._count = 0

    def write(self, image: Tensor) -> None:
        """Add a frame.

        Args:
            image: uint8 tensor (3, H, W).
        """
        height, width = image.shape[1:]
        even = np.pad(image.permute(1, 2, 0).numpy(), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        with _as_os_errors():
            if self._stream is None:
                self._stream = self._add_stream(frame.height, frame.width)
            self._container.mux(self._stream.encode(frame))

    def _add_stream(self, height: int, width: int) -> VideoStream:
        h264 = H264 in av.codecs_available
        stream = self._container.add_stream(H264 if h264 else MPEG4, self._rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if h264:
            stream.options = {"crf": CONSTANT_QUALITY}
        else:
            stream.bit_rate = round(MPEG4_BITS_PER_PIXEL * height * width * self._rate)
        return stream

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _as_os_errors(), self._container:
            if error is None and self._stream is not None:
                self._container.mux(self._stream.encode())


@contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
