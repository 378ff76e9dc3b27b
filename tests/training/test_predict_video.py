"""Prediction of videos: films with overlays, rows of frames, and what cannot be read."""

from __future__ import annotations

import csv
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastresunet.training import video as video_module
from fastresunet.training.checkpoints import load_model
from fastresunet.training.data_format import KVASIR_SEG
from fastresunet.training.errors import UserError
from fastresunet.training.fit import TrainingResult
from fastresunet.training.inference import decide, predict_probability
from fastresunet.training.measurements import MEASUREMENTS, measure
from fastresunet.training.predict import predict
from fastresunet.training.prediction_inputs import find_inputs
from fastresunet.training.predictor import PredictionOptions, Predictor
from fastresunet.training.video import VideoWriter, open_video

CPU = PredictionOptions(device="cpu")
RATE = Fraction(30000, 1001)
FRAMES, HEIGHT, WIDTH = 5, 35, 48


def pictures() -> list[NDArray[np.uint8]]:
    """Noise: frames (H, W, 3) that no two are alike."""
    return list(np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8))


def write_lossless(path: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", RATE)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def read(path: Path) -> tuple[Fraction | None, list[Tensor]]:
    with open_video(path) as video:
        return video.rate, [frame.image for frame in video.frames]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Five frames of 35x48 pixels, without loss."""
    return write_lossless(tmp_path / "film.mkv", pictures())


def test_frames_are_those_of_the_file(film: Path) -> None:
    rate, frames = read(film)
    assert rate == RATE
    assert [frame.permute(1, 2, 0).numpy().tolist() for frame in frames] == [frame.tolist() for frame in pictures()]


@pytest.mark.parametrize("batch_size", [2, 8])
def test_a_film_and_a_row_a_frame(trained: TrainingResult, film: Path, tmp_path: Path, batch_size: int) -> None:
    options = PredictionOptions(device="cpu", batch_size=batch_size)
    masks, videos = predict(trained.best_checkpoint, [film], tmp_path / "out", options)
    assert (masks, videos) == ([], [tmp_path / "out/videos/film.mp4"])
    assert sorted(path.name for path in (tmp_path / "out/videos").iterdir()) == ["film.csv", "film.mp4"]
    rate, frames = read(videos[0])
    assert rate == RATE
    assert [tuple(frame.shape) for frame in frames] == [(3, HEIGHT + 1, WIDTH)] * FRAMES  # an odd height grows
    with (tmp_path / "out/videos/film.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == [str(number) for number in range(FRAMES)]
    assert [float(row["seconds"]) for row in rows] == pytest.approx([n / RATE for n in range(FRAMES)], abs=2e-3)
    model, size, _ = load_model(trained.best_checkpoint)
    assert size is not None
    for row, pixels in zip(rows, pictures(), strict=True):
        probability = predict_probability(model, torch.from_numpy(pixels).permute(2, 0, 1), size)
        mask = decide(probability, 0.5)
        expected = dict(zip(MEASUREMENTS, measure(mask, probability, KVASIR_SEG)[0], strict=True))
        assert float(row["highest"]) == pytest.approx(float(expected["highest"]), abs=2e-4)
        assert int(row["area"]) == pytest.approx(int(expected["area"]), abs=2)  # a pixel may round across the threshold


def test_tiles_in_a_video(trained: TrainingResult, film: Path, tmp_path: Path) -> None:
    options = PredictionOptions(device="cpu", tile=32)
    predict(trained.best_checkpoint, [film], tmp_path / "out", options)
    assert len(read(tmp_path / "out/videos/film.mp4")[1]) == FRAMES


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_written_frames_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    monkeypatch.setattr(video_module, "H264", codec if codec == "libx264" else "not built")
    smooth = torch.linspace(0, 200, 48).expand(3, 35, 48).to(torch.uint8)
    with VideoWriter(tmp_path / "film", Fraction(25)) as writer:
        for _ in range(3):
            writer.write(smooth)
    with av.open(str(tmp_path / "film")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == ("h264" if codec == "libx264" else "mpeg4")
        assert (stream.average_rate, stream.height, stream.width) == (25, 36, 48)
    frames = read(tmp_path / "film")[1]
    assert len(frames) == 3
    for frame in frames:
        assert float((frame[:, :35].float() - smooth.float()).abs().mean()) < 6


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["clockwise", "upside down", "counterclockwise"],
)
def test_frames_are_turned_upright(tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    path = tmp_path / "phone.mp4"
    picture = torch.zeros(3, 32, 48, dtype=torch.uint8)
    picture[:, :16, :16] = 250  # bright in the corner at the top left
    with VideoWriter(path, Fraction(25)) as writer:
        writer.write(picture)
    content = bytearray(path.read_bytes())
    # The track header's matrix, 40 bytes after its name: rows of two numbers in 16.16 and one in 2.30.
    a, b, c, d = (value * 2**16 for value in matrix)
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(content)
    (frame,) = read(path)[1]
    expected = torch.rot90(picture, turns, (1, 2))
    assert frame.shape == expected.shape
    assert float((frame.float() - expected.float()).abs().mean()) < 6


def test_frames_are_read_when_they_are_computed(
    trained: TrainingResult, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(trained.best_checkpoint, PredictionOptions(device="cpu", batch_size=2))
    asked = []
    with open_video(film) as video:
        images = ((asked.append(frame.number) or frame.number, frame.image) for frame in video.frames)  # type: ignore[func-returns-value]
        seen = [(number, len(asked)) for number, _, _ in predictor.predict(images)]
    assert seen == [(0, 2), (1, 2), (2, 4), (3, 4), (4, 5)]


def test_what_cannot_be_read_is_named_and_leaves_nothing(
    trained: TrainingResult, film: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"text")
    inputs = [tmp_path / "broken.mp4", film, shared_data / "images/0000.png"]
    with pytest.raises(UserError, match=r"^1 of 3 files could not be read: .*broken\.mp4"):
        predict(trained.best_checkpoint, inputs, tmp_path / "out", CPU)
    assert "cannot read video" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out/videos").iterdir()) == ["film.csv", "film.mp4"]
    assert (tmp_path / "out/masks/0000.png").exists()


def test_an_interrupted_film_leaves_nothing(
    trained: TrainingResult, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = VideoWriter.write

    def interrupted(self: VideoWriter, image: Tensor) -> None:
        write(self, image)
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(trained.best_checkpoint, [film], tmp_path / "out", CPU)
    assert list((tmp_path / "out/videos").iterdir()) == []


def test_existing_films_are_left_out(trained: TrainingResult, film: Path, tmp_path: Path) -> None:
    (tmp_path / "out/videos").mkdir(parents=True)
    (tmp_path / "out/videos/film.mp4").write_bytes(b"there")
    options = PredictionOptions(device="cpu", skip_existing=True)
    assert predict(trained.best_checkpoint, [film], tmp_path / "out", options) == ([], [])
    assert (tmp_path / "out/videos/film.mp4").read_bytes() == b"there"


def test_an_output_in_the_way_is_named(trained: TrainingResult, film: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("keep")
    with pytest.raises(UserError, match=r"cannot write .*film\.mp4: a file is where a folder should be"):
        predict(trained.best_checkpoint, [film], tmp_path / "out", CPU)


def test_folders_hold_images_and_videos(film: Path, shared_data: Path, tmp_path: Path) -> None:
    assert find_inputs([tmp_path]) == ({}, {"film": film})
    (tmp_path / "still.png").write_bytes((shared_data / "images/0000.png").read_bytes())
    assert find_inputs([tmp_path]) == ({"still": tmp_path / "still.png"}, {"film": film})
    (tmp_path / "film.avi").write_bytes(b"")
    with pytest.raises(UserError, match=r"would both write film\.mp4"):
        find_inputs([tmp_path])


def test_without_pyav_the_extra_is_named(
    trained: TrainingResult, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for name in ("predict_video", "video"):
        monkeypatch.delitem(sys.modules, f"fastresunet.training.{name}", raising=False)
    with pytest.raises(UserError, match=r'pip install "fastresunet\[video\]"'):
        predict(trained.best_checkpoint, [film], tmp_path / "out", CPU)
