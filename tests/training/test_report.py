"""The report: what it says, that it stands alone, and that names cannot break it."""

from __future__ import annotations

import base64
import datetime
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from torch import Tensor

from fastresunet.training import report
from fastresunet.training.evaluation import Evaluation
from fastresunet.training.gallery import Gallery, shrink
from fastresunet.training.metrics import confusion_counts
from fastresunet.training.probability_histogram import join, probability_histogram
from fastresunet.training.report import ReportHeader, write_report
from fastresunet.training.report_scores import in_words
from fastresunet.training.statistics import Statistics

HEADER = ReportHeader("best.ckpt", "<polyps> & co", "val", 64, 0.5, False, datetime.date(2024, 2, 29))


class Page(HTMLParser):
    """Tags left open, texts and pictures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        values = dict(attrs)
        self.sources += [values["src"] or ""] if "src" in values else []
        self.links += [values["href"] or ""] if "href" in values else []
        self.names |= {values["id"] or ""} if "id" in values else set()
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close a tag, which must be the one opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data


def square(side: int) -> Tensor:
    """Return a mask of 24x40 pixels with a square of ``side`` pixels."""
    mask = torch.zeros(24, 40, dtype=torch.bool)
    mask[:side, :side] = True
    return mask


def evaluated(names: list[str], distances: Tensor | None = None) -> tuple[Evaluation, Gallery]:
    """Return an evaluation whose first image is the worst but one and whose second is the worst, and its pictures."""
    masks = [(square(10), square(10 - index if index != 1 else 2)) for index in range(len(names) - 1, -1, -1)]
    gallery = Gallery()
    for truth, prediction in masks:
        gallery.add(torch.full((3, 24, 40), 128, dtype=torch.uint8), truth, prediction)
    counts = torch.cat([confusion_counts(prediction[None], truth[None]) for truth, prediction in masks])
    histogram = join([probability_histogram(prediction * 0.8 + 0.1, truth) for truth, prediction in masks])
    return Evaluation(tuple(names), counts, histogram, distances), gallery


def page_of(tmp_path: Path, evaluation: Evaluation, gallery: Gallery) -> tuple[str, Page]:
    """Write a report and return its source and what is in it."""
    write_report(tmp_path / "report.html", HEADER, evaluation, gallery)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    return source, Page(source)


def test_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    source, page = page_of(tmp_path, *evaluated(["a", "b", "c"]))
    assert page.open == []
    assert len(page.sources) == 4 + 3 * 3
    assert all(address.startswith("data:image/") for address in page.sources)
    assert {link[1:] for link in page.links} - {"close"} <= page.names
    assert not re.search(r"https?://|<script|<link|@import|url\(", re.sub(r'src="[^"]*"', "", source))


def test_header_scores_and_warning(tmp_path: Path) -> None:
    evaluation, gallery = evaluated(["a", "b", "c"])
    _, page = page_of(tmp_path, evaluation, gallery)
    for words in (
        "best.ckpt",
        "3 (val)",
        "2024-02-29",
        "0.5: a pixel is called polyp",
        "not a medical device",
        in_words("Dice", evaluation.statistics["dice"]),
        f"has Dice {evaluation.best_constant_dice:.3f}",
    ):
        assert words in page.text


def test_interval_in_plain_words() -> None:
    score = Statistics(120, 0.848, (0.8171, 0.8769), 0.9, 0.1)
    assert in_words("Dice", score) == "Dice 0.848, 95 % interval 0.817 to 0.877"


def test_images_come_worst_first(tmp_path: Path) -> None:
    _, page = page_of(tmp_path, *evaluated(["first", "second", "third"]))
    found = [page.text.index(f"of the image · {name}") for name in ("second", "first", "third")]
    assert found == sorted(found)


def test_large_evaluations_show_the_worst_and_some_of_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "WORST_SHOWN", 2)
    monkeypatch.setattr(report, "BEST_SHOWN", 1)
    _, page = page_of(tmp_path, *evaluated(["n0", "n1", "n2", "n3", "n4"]))
    assert "the 2 worst of 5 images, and the 1 best" in page.text
    assert re.findall(r"of the image · (n\d)", page.text) == ["n3", "n0", "n4"]


def test_names_are_escaped(tmp_path: Path) -> None:
    name = "\"><script>alert('x')</script>&amp;"
    source, page = page_of(tmp_path, *evaluated([name, "b", "c"]))
    assert page.open == []
    assert "<script" not in source
    assert name in page.text
    assert "<polyps> & co" in page.text


def test_same_numbers_give_the_same_file(tmp_path: Path) -> None:
    first, second = (page_of(tmp_path, *evaluated(["a", "b", "c"]))[0] for _ in range(2))
    assert first == second


def test_charts_are_svg_without_a_date(tmp_path: Path) -> None:
    _, page = page_of(tmp_path, *evaluated(["a", "b", "c"]))
    charts = [address for address in page.sources if address.startswith("data:image/svg+xml;base64,")]
    assert len(charts) == 4
    for address in charts:
        svg = base64.b64decode(address.partition(",")[2])
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert b"dc:date" not in svg


def test_surface_distances_say_what_they_leave_out(tmp_path: Path) -> None:
    distances = torch.tensor([[3.0, 1.0], [math.nan, math.nan], [5.0, 2.0]], dtype=torch.float64)
    _, page = page_of(tmp_path, *evaluated(["a", "b", "c"], distances))
    assert "Hausdorff 95 %, px4.0" in page.text
    assert "Distances are not defined for 1 image" in page.text


def test_images_without_polyp(tmp_path: Path) -> None:
    gallery, nothing = Gallery(), square(0)
    gallery.add(torch.zeros(3, 24, 40, dtype=torch.uint8), nothing, nothing)
    histogram = probability_histogram(torch.zeros(24, 40), nothing)
    counts = confusion_counts(nothing[None], nothing[None])
    _, page = page_of(tmp_path, Evaluation(("healthy",), counts, histogram), gallery)
    assert "Dice 1.000" in page.text
    assert "1 image without polyp in no group" in page.text


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (320, 240)), ((480, 1280), (120, 320)), ((50, 320), (50, 320)), ((2000, 1), (320, 1))],
    ids=["tall", "wide", "small enough", "thin"],
)
def test_thumbnails_are_small(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shrink(torch.zeros(3, *size)).shape == (3, *expected)


def test_thumbnails_show_the_masks_in_their_colours() -> None:
    gallery, (top, bottom) = Gallery(), (square(0), square(0))
    top[:12], bottom[12:] = True, True
    gallery.add(torch.zeros(3, 24, 40, dtype=torch.uint8), top, bottom)
    pictures = [Image.open(io.BytesIO(jpeg)).convert("L") for jpeg in gallery.thumbnails[0]]
    lit = [[picture.getpixel((20, row)) > 20 for row in (4, 19)] for picture in pictures]  # type: ignore[operator]
    assert lit == [[False, False], [True, False], [False, True]]
