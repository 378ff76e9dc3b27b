"""Pairing and reading of a data folder, and what is said of one that is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from fastresunet.training.data import find_pairs
from fastresunet.training.errors import UserError
from fastresunet.training.image_store import ImageStore
from fastresunet.training.images import read_image
from fastresunet.training.masks import read_mask
from fastresunet.training.split import split_pairs


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def resize(path: Path) -> None:
    Image.open(path).resize((20, 10)).save(path)


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def replace_masks(folder: Path, level: int) -> None:
    for path in folder.iterdir():
        Image.new("L", (48, 48), level).save(path)


def write_lists(data: Path, train: str, val: str) -> None:
    (data / "train.txt").write_text(train)
    (data / "val.txt").write_text(val)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no images folder": (lambda data: shutil.rmtree(data / "images"), r"there is no folder .*images.*DIR/masks"),
    "empty folder": (lambda data: clear(data / "masks"), r"no image in .*masks"),
    "mask without image": (lambda data: (data / "images/0002.png").unlink(), r"masks.0002\.png has no image"),
    "image without mask": (lambda data: (data / "masks/0002.png").unlink(), r"images.0002\.png has no mask"),
    "two files of one name": (
        lambda data: shutil.copy(data / "images/0001.png", data / "images/0001.jpg"),
        r"0001\.jpg and .*0001\.png share the name '0001'",
    ),
    "truncated image": (lambda data: truncate(data / "images/0003.png"), r"cannot read image .*images.0003\.png"),
    "no image at all": (lambda data: (data / "images/0003.png").write_text("text"), r"cannot read image .*0003\.png"),
    "mask of another size": (
        lambda data: resize(data / "masks/0004.png"),
        r"mask .*0004\.png is 20x10 pixels .* is 48x48",
    ),
    "masks of 0 and 1": (
        lambda data: replace_masks(data / "masks", 1),
        r"(mask .* none above 127.*8-bit grey.*\n){5}and 1 more of the 6 pairs",
    ),
    "empty masks": (lambda data: replace_masks(data / "masks", 0), r"all 6 masks are empty"),
    "one list only": (lambda data: (data / "train.txt").write_text("0001"), r"val\.txt is missing"),
    "empty list": (
        lambda data: write_lists(data, "", ""),
        r"train\.txt lists no name",
    ),
    "unknown name": (
        lambda data: write_lists(data, "0001\n99", "0002"),
        r"train\.txt lists '99'",
    ),
    "wrong suffix": (lambda data: write_lists(data, "0001.pngnosuch", "0002"), r"train\.txt lists '0001\.pngnosuch'"),
    "other suffix": (lambda data: write_lists(data, "0001.jpg", "0002"), r"train\.txt lists '0001\.jpg'"),
    "name twice": (lambda data: write_lists(data, "0001", "0002\n0003\n0002.png"), r"val\.txt lists '0002\.png' twice"),
    "list in Latin-1": (
        lambda data: [(data / name).write_bytes(b"caf\xe9\n") for name in ("train.txt", "val.txt")],
        r"train\.txt is no UTF-8 text",
    ),
    "overlapping lists": (
        lambda data: write_lists(data, "0001\n0002", "0003\n0001"),
        r"'0001' is listed in both",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(data: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(data)
    with pytest.raises(UserError, match=message):
        ImageStore([pair for part in split_pairs(data) for pair in part], size=32).fill()


def test_pairs_ignore_other_files_and_accept_mixed_suffixes(data: Path) -> None:
    (data / "images" / "Thumbs.db").write_bytes(b"")
    (data / "images" / "._0001.png").write_bytes(b"")
    Image.open(data / "masks/0001.png").save(data / "masks/0001.TIF")
    (data / "masks/0001.png").unlink()
    pairs = find_pairs(data)
    assert [pair.name for pair in pairs] == [f"000{index}" for index in range(6)]
    assert pairs[1].mask.name == "0001.TIF"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_images_of_any_mode_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode).save(path)
    assert read_image(path).shape == (3, 5, 7)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "16-bit"])
def test_foreground_is_above_127_in_any_encoding(tmp_path: Path, mode: str) -> None:
    levels = np.array([[0, 1, 127], [128, 254, 255]], dtype=np.uint8)
    image = Image.fromarray(levels)
    (Image.fromarray(levels.astype(np.uint16) * 257) if mode == "16-bit" else image.convert(mode)).save(
        tmp_path / "mask.png"
    )
    assert read_mask(tmp_path / "mask.png").tolist() == [[False] * 3, [True] * 3]


def test_jpeg_noise_in_colour_is_no_colour(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (250, 253, 250)).save(tmp_path / "mask.jpg")
    assert read_mask(tmp_path / "mask.jpg").all()


def indexed(levels: Image.Image) -> Image.Image:
    palette = levels.convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    return palette


def with_transparency(levels: Image.Image) -> Image.Image:
    levels.putalpha(levels.point(lambda level: 255 * level))
    return levels


UNCLEAR: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "levels 0 and 1": (lambda levels: levels, "none above 127"),
    "16-bit levels 0 and 1": (
        lambda levels: Image.fromarray(np.asarray(levels).astype(np.uint16)),
        "none above 127",
    ),
    "palette": (indexed, "is coloured"),
    "red": (lambda levels: Image.merge("RGB", [levels.point(lambda x: 255 * x), levels, levels]), "is coloured"),
    "transparency": (with_transparency, "has transparent pixels"),
}


@pytest.mark.parametrize("encoding", UNCLEAR)
def test_unclear_masks_are_refused(tmp_path: Path, encoding: str) -> None:
    encode, problem = UNCLEAR[encoding]
    encode(Image.fromarray(np.eye(8, dtype=np.uint8))).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=rf"mask .*mask\.png .*{problem}.*Save it as 8-bit grey"):
        read_mask(tmp_path / "mask.png")


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    for name in ("image.png", "image.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        assert read_image(tmp_path / name)[:, 0].tolist() == [[0, 1, 100, 255]] * 3


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(np.ones((4, 4), dtype)).save(path)
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=r"cannot read image .*image\.tif: its pixels are 32-bit numbers"):
            read(path)


def test_exif_orientation_turns_image_and_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown turned to the right
    path = tmp_path / "turned.png"
    Image.fromarray(np.array([[255, 0, 0]], dtype=np.uint8)).save(path, exif=exif)
    assert read_image(path)[0].tolist() == [[255], [0], [0]]
    assert read_mask(path).tolist() == [[True], [False], [False]]
