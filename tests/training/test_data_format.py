"""What files of a data folder mean: classes, grey levels, colours, suffixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastresunet.training.data import find_pairs
from fastresunet.training.data_format import (
    PALETTE,
    DataFormat,
    MaskClass,
    numbered_classes,
    parse_classes,
    read_class_list,
)
from fastresunet.training.errors import UserError
from fastresunet.training.images import read_image
from fastresunet.training.masks import read_mask, write_mask

NUMBERS = [[0, 1, 2], [2, 1, 0]]
LEVELS = DataFormat(classes=parse_classes(["background 0", "polyp 100", "tool 7"]))
COLOURS = DataFormat(classes=parse_classes(["background #000000", "polyp #ff0000", "tool #00ff80"]))
VALUES = {0: (0, (0, 0, 0)), 1: (100, (255, 0, 0)), 2: (7, (0, 255, 128))}


def levels() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.array([[VALUES[number][0] for number in row] for row in NUMBERS], np.uint8)


def colours() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.array([[VALUES[number][1] for number in row] for row in NUMBERS], np.uint8)


def palette_image(indices: object, palette: dict[int, tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(np.array(indices, np.uint8))
    table = np.zeros((256, 3), np.uint8)
    for index, colour in palette.items():
        table[index] = colour
    image.putpalette(table.tobytes())
    return image


def transparent() -> Image.Image:
    return Image.fromarray(np.dstack([colours(), np.full((2, 3), 254, np.uint8)]))


MASKS = {
    "grey": (LEVELS, Image.fromarray(levels())),
    "grey-16-bit": (LEVELS, Image.fromarray(levels().astype(np.uint16))),
    "grey-as-rgb": (LEVELS, Image.fromarray(np.stack([levels()] * 3, 2))),
    "indices-of-a-palette": (LEVELS, palette_image(levels(), {100: (9, 9, 9), 7: (1, 2, 3)})),
    "colours": (COLOURS, Image.fromarray(colours())),
    "colours-of-a-palette": (COLOURS, palette_image(NUMBERS, {1: (255, 0, 0), 2: (0, 255, 128)})),
    "colours-with-opaque-alpha": (COLOURS, Image.fromarray(np.dstack([colours(), np.full((2, 3), 255, np.uint8)]))),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_several_classes(kind: str, tmp_path: Path) -> None:
    form, image = MASKS[kind]
    image.save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", form)
    assert mask.dtype == torch.uint8
    assert mask.tolist() == NUMBERS


def test_grey_levels_and_colours_may_be_mixed(tmp_path: Path) -> None:
    form = DataFormat(classes=parse_classes(["background 0", "grey 7", "red #ff0000"]))
    Image.fromarray(np.array([[(0, 0, 0), (7, 7, 7), (255, 0, 0)]], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", form).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("form", "image", "expected"),
    [
        (
            LEVELS,
            Image.fromarray(levels() + np.uint8(1)),
            r"pixels of 1, 8, 101, which is no class; .*polyp 100",
        ),
        (COLOURS, Image.fromarray(colours() ^ np.uint8(1)), r"pixels of #010101, #01fe81, #fe0101, which is no class"),
        (LEVELS, Image.fromarray(colours()), r"is coloured, but the classes are given by grey levels"),
        (DataFormat(foreground=(1,)), Image.fromarray(colours()), r"is coloured; foreground values are grey levels"),
        (DataFormat(foreground=(1,)), transparent(), r"has transparent pixels"),
        (COLOURS, transparent(), r"has transparent pixels"),
    ],
    ids=["level", "colour", "coloured", "coloured-foreground", "transparent-foreground", "transparent-colours"],
)
def test_unknown_pixels_are_named(form: DataFormat, image: Image.Image, expected: str, tmp_path: Path) -> None:
    image.save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=rf"mask .*mask\.png .*{expected}"):
        read_mask(tmp_path / "mask.png", form)


@pytest.mark.parametrize("form", [LEVELS, COLOURS, DataFormat()], ids=["levels", "colours", "foreground"])
def test_written_masks_are_read_as_they_were(form: DataFormat, tmp_path: Path) -> None:
    mask = torch.tensor(NUMBERS, dtype=torch.uint8).clamp(max=form.outputs if form.classes else 1)
    write_mask(tmp_path / "mask.png", mask, form)
    assert torch.equal(read_mask(tmp_path / "mask.png", form), mask)


def test_written_masks_hold_pixel_values_and_show_colours(tmp_path: Path) -> None:
    mask = torch.tensor(NUMBERS, dtype=torch.uint8)
    write_mask(tmp_path / "levels.png", mask, LEVELS)
    image = Image.open(tmp_path / "levels.png")
    assert np.array_equal(np.asarray(image), levels())
    assert np.asarray(image.convert("RGB"))[0].tolist() == [[0, 0, 0], [*PALETTE[0]], [*PALETTE[1]]]
    write_mask(tmp_path / "colours.png", mask, COLOURS)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "colours.png").convert("RGB")), colours())


@pytest.mark.parametrize(
    ("foreground", "expected"), [((1,), [[False, True, False, False]]), ((2, 255), [[False, False, True, True]])]
)
@pytest.mark.parametrize("kind", ["grey", "16-bit", "rgb", "palette"])
def test_foreground_values(foreground: tuple[int, ...], expected: list[list[bool]], kind: str, tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 2, 255]], np.uint8)
    images = {
        "grey": Image.fromarray(pixels),
        "16-bit": Image.fromarray(pixels.astype(np.uint16)),
        "rgb": Image.fromarray(np.stack([pixels] * 3, 2)),
        "palette": palette_image(pixels, {1: (200, 0, 0)}),
    }
    images[kind].save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", DataFormat(foreground=foreground)).tolist() == expected


@pytest.mark.parametrize("form", [LEVELS, DataFormat(foreground=(1,))], ids=["classes", "foreground"])
def test_jpeg_masks_are_black_and_white_only(form: DataFormat, tmp_path: Path) -> None:
    Image.fromarray(levels()).save(tmp_path / "mask.jpg")
    with pytest.raises(UserError, match=r"mask\.jpg is a JPEG, which changes pixel values"):
        read_mask(tmp_path / "mask.jpg", form)


def test_a_mask_of_ones_names_the_option(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"none above 127.*--foreground VALUE \(1 for masks of 0 and 1\)"):
        read_mask(tmp_path / "mask.png")


def test_grey_images(tmp_path: Path) -> None:
    colours = torch.randint(256, (5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(colours.numpy())
    image.save(tmp_path / "colour.png")
    image.convert("L").save(tmp_path / "grey.png")
    grey = read_image(tmp_path / "colour.png", channels=1)
    assert grey.shape == (1, 5, 7)
    assert torch.equal(grey, read_image(tmp_path / "grey.png", channels=1))
    assert torch.equal(grey.expand(3, -1, -1), read_image(tmp_path / "grey.png"))


def test_mask_suffix(data: Path) -> None:
    for path in (data / "masks").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    with pytest.raises(UserError, match=r"or give --mask-suffix=_mask\."):
        find_pairs(data)
    pairs = find_pairs(data, DataFormat(mask_suffix="_mask"))
    assert [pair.name for pair in pairs] == [f"{number:04d}" for number in range(6)]
    assert all(pair.mask.name == f"{pair.name}_mask.png" for pair in pairs)
    (data / "masks/0003_mask.png").rename(data / "masks/0003.png")
    with pytest.raises(
        UserError, match=r"the name of .*0003\.png does not end in '_mask', which --mask-suffix, or the training,"
    ):
        find_pairs(data, DataFormat(mask_suffix="_mask"))


def test_class_lists(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\ufeff// of our clinic\nbackground\t0\n\nlarge  polyp #FF0000\n", "utf-8")
    entries = read_class_list(str(tmp_path / "classes.txt"))
    assert parse_classes(entries) == (MaskClass("background", 0), MaskClass("large  polyp", (255, 0, 0)))
    assert [str(each) for each in parse_classes(entries)] == ["background 0", "large  polyp #ff0000"]
    assert read_class_list("3") == numbered_classes(3) == ("background 0", "class 1 1", "class 2 2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("background 0\npolyp", r"a class must be a name and a pixel value, .*; got 'polyp'"),
        ("background 0\npolyp 256", r"got 'polyp 256'"),
        ("background 0\npolyp #ff00", r"got 'polyp #ff00'"),
        ("background 0\n1", r"got '1'"),
        ("background 0\nbackground 1", r"two classes have the same name; the second is 'background 1'"),
        ("background 0\npolyp 0", r"two classes have the same pixel value; the second is 'polyp 0'"),
        ("dark 0\nblack #000000", r"two classes have the same pixel value; the second is 'black #000000'"),
        ("background 0", r"classes must be 2 to 256, the background among them; got 1"),
    ],
    ids=["no-value", "level", "colour", "no-name", "name-twice", "value-twice", "level-and-colour", "one"],
)
def test_wrong_class_lists_are_named(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt: .*{expected}"):
        read_class_list(str(tmp_path / "classes.txt"))


@pytest.mark.parametrize("option", ["0", "1", "257", "300", "9999999999"])
def test_wrong_numbers_of_classes(option: str) -> None:
    with pytest.raises(UserError, match=rf"{option}: classes must be 2 to 256"):
        read_class_list(option)
    with pytest.raises(UserError, match=r"must be a number, or a text file .*; cannot read no\.txt"):
        read_class_list("no.txt")


def test_classes_have_colours_of_their_own() -> None:
    many = DataFormat(classes=parse_classes(numbered_classes(60)))
    assert len({*many.colours}) == 59
    assert COLOURS.colours == ((255, 0, 0), (0, 255, 128))
    # What is black in masks cannot be seen on images.
    assert DataFormat(classes=parse_classes(["white #ffffff", "black #000000"])).colours == PALETTE[:1]
