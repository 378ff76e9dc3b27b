"""What the files of a data folder mean: images in colour or grey, and which pixels of a mask are of which class."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastresunet.training.errors import UserError

Colour = tuple[int, int, int]
MOST_CLASSES = 256  # masks hold a byte a pixel
EXPECTED_CLASS = "a name and a pixel value, grey 0 to 255 or colour #rrggbb, such as 'polyp 1' or 'polyp #ff0000'"
# Okabe and Ito's colours differ for every kind of colour vision.
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
GOLDEN_RATIO = 0.618034


@dataclass(frozen=True)
class MaskClass:
    """A class of pixels, and what its pixels hold in mask files.

    Args:
        name: of the class.
        value: grey level 0..255, or red, green and blue.
    """

    name: str
    value: int | Colour

    @staticmethod
    def parse(text: str) -> MaskClass:
        """Return the class of a text such as ``"polyp 1"`` or ``"polyp #ff0000"``.

        Raises:
            UserError: it is none.
        """
        name, value = [*text.rsplit(maxsplit=1), "", ""][:2]
        if re.fullmatch("#[0-9a-fA-F]{6}", value):
            return MaskClass(name.strip(), (int(value[1:3], 16), int(value[3:5], 16), int(value[5:], 16)))
        if re.fullmatch("[0-9]{1,3}", value) and int(value) < MOST_CLASSES:
            return MaskClass(name.strip(), int(value))
        raise UserError(f"a class must be {EXPECTED_CLASS}; got {text.strip()!r}")

    def __str__(self) -> str:
        """Return the text that ``parse`` reads."""
        value = self.value if isinstance(self.value, int) else "#{:02x}{:02x}{:02x}".format(*self.value)
        return f"{self.name} {value}"


@dataclass(frozen=True)
class DataFormat:
    """How the files of a data folder are read; the defaults are those of Kvasir-SEG.

    Args:
        channels: of images: 3 reads them as RGB, 1 as grey.
        classes: of masks, the background first; none where a pixel is foreground or not.
        foreground: grey levels of the foreground, where there are no classes; none takes all above 127.
        mask_suffix: what the names of mask files have after those of their images.
    """

    channels: int = 3
    classes: tuple[MaskClass, ...] = ()
    foreground: tuple[int, ...] = ()
    mask_suffix: str = ""

    @property
    def outputs(self) -> int:
        """Number of classes of the network: 1, whose sigmoid is the foreground's probability, or all, by softmax."""
        return len(self.classes) or 1

    @property
    def foreground_names(self) -> tuple[str, ...]:
        """Names of the classes 1, 2, ... of read masks; 0 is the background."""
        return tuple(each.name for each in self.classes[1:]) or ("foreground",)

    @cached_property
    def in_colours(self) -> bool:
        """Whether colours say the classes, not grey levels or the indices of a palette."""
        return any(not isinstance(each.value, int) for each in self.classes)

    @property
    def meaning(self) -> str:
        """How masks are read, in a few words."""
        if self.classes:
            return f"masks of {', '.join(map(str, self.classes))}"
        levels = f"of {', '.join(map(str, self.foreground))}" if self.foreground else "above 127 of 255"
        return f"foreground of masks {levels}"

    @property
    def expected(self) -> str:
        """What pixels of masks hold that show something, as a sentence."""
        if self.classes:
            return f"Expected pixels of other classes than {self.classes[0]}."
        if self.foreground:
            return f"Expected pixels of the grey levels {', '.join(map(str, self.foreground))}."
        return "Save masks as 8-bit grey, 0 for background and 255 for polyp."

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours to draw classes 1, 2, ... with: their own in masks, if those are coloured."""
        return tuple(_colour(number, each.value) for number, each in enumerate(self.classes[1:])) or PALETTE[:1]


KVASIR_SEG = DataFormat()


def parse_classes(entries: Sequence[str]) -> tuple[MaskClass, ...]:
    """Return the classes of texts, the background first.

    Args:
        entries: see ``MaskClass.parse``.

    Raises:
        UserError: an entry is no class; a name or a value occurs twice; or there are fewer than two classes, or too
            many.
    """
    if not 2 <= len(entries) <= MOST_CLASSES:
        raise UserError(f"classes must be 2 to {MOST_CLASSES}, the background among them; got {len(entries)}")
    classes = tuple(map(MaskClass.parse, entries))
    names: list[object] = [each.name for each in classes]
    # A grey level beside colours is the colour of three such levels.
    values: list[object] = [(each.value,) * 3 if isinstance(each.value, int) else each.value for each in classes]
    for kind, found in (("name", names), ("pixel value", values)):
        twice = [str(classes[i]) for i, x in enumerate(found) if found.index(x) != i]
        if twice:
            raise UserError(f"two classes have the same {kind}; the second is {twice[0]!r}")
    return classes


def numbered_classes(count: int) -> tuple[str, ...]:
    """Return classes whose pixels hold their number, as ``parse_classes`` takes them.

    Args:
        count: of all, with the background, which is 0.
    """
    return ("background 0", *(f"class {number} {number}" for number in range(1, count)))


def read_class_list(option: str) -> tuple[str, ...]:
    """Return the classes that an option names, as ``parse_classes`` takes them.

    Args:
        option: how many there are, pixels holding their number; or a text file with a class a line, the background
            first, such as ``polyp 1`` or ``polyp #ff0000``. Empty lines, and lines that start with ``//``, say nothing.

    Raises:
        UserError: the file cannot be read, or the classes cannot be used, see ``parse_classes``.
    """
    if option.isascii() and option.isdigit():
        entries = numbered_classes(int(option[:6])) if int(option) else ()
    else:
        try:
            text = Path(option).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"classes must be a number, or a text file with a class a line; cannot read {option}: "
                f"{getattr(error, 'strerror', None) or error}"
            ) from error
        lines = (line.strip() for line in text.splitlines())
        entries = tuple(line for line in lines if line and not line.startswith("//"))
    try:
        parse_classes(entries)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
    return entries


def _colour(number: int, value: int | Colour) -> Colour:
    # Black is what the background is drawn with.
    if not isinstance(value, int) and any(value):
        return value
    if number < len(PALETTE):
        return PALETTE[number]
    # Hues of neighbouring classes lie far apart.
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.7, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
