"""A report of an evaluation for people: one HTML file that needs nothing else, on screen and on paper."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from fastresunet.training.evaluation import ClassesEvaluation, Evaluation, ScoredImages
from fastresunet.training.files import write_atomically
from fastresunet.training.gallery import Gallery, Thumbnails
from fastresunet.training.info import versions
from fastresunet.training.report_charts import charts_section
from fastresunet.training.report_html import count, data_uri
from fastresunet.training.report_scores import classes_section, scores_section, sizes_section
from fastresunet.training.report_style import STYLE

# About 55 KB an image: a report weighs 7 MB at most.
WORST_SHOWN = 120
BEST_SHOWN = 12
NAMED_VERSIONS = ("fastresunet", "torch", "python")


@dataclass(frozen=True)
class ReportHeader:
    """Where the scores of a report come from.

    Args:
        checkpoint: file or name of the weights.
        data: data folder.
        selection: which images of it were scored, in words.
        size: height and width for the network, in pixels.
        threshold: a pixel is foreground where its probability is above this.
        augment: whether the probabilities are averages over flips and quarter turns.
        date: day of the evaluation.
    """

    checkpoint: str
    data: str
    selection: str
    size: int
    threshold: float
    augment: bool
    date: datetime.date = field(default_factory=datetime.date.today)


def write_report(path: Path, header: ReportHeader, evaluation: ScoredImages, gallery: Gallery) -> None:
    """Write the report.

    Args:
        path: HTML file to write.
        header: where the scores come from.
        evaluation: scores to show.
        gallery: pictures of its images, in the same order.

    Raises:
        UserError: the file cannot be written.
    """
    sections = [_title(header, evaluation), scores_section(evaluation)]
    if isinstance(evaluation, ClassesEvaluation):
        sections.append(classes_section(evaluation, gallery.form))
    sections.append(charts_section(evaluation, header.threshold))
    if isinstance(evaluation, Evaluation):
        sections.append(sizes_section(evaluation))
    sections.append(_gallery(evaluation, gallery.thumbnails))
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_subject(evaluation)}: {escape(header.data)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )
    write_atomically(path, page.encode())


def _subject(evaluation: ScoredImages) -> str:
    return "Segmentation" if isinstance(evaluation, ClassesEvaluation) else "Polyp segmentation"


def _title(header: ReportHeader, evaluation: ScoredImages) -> str:
    found = versions()
    facts = {
        "Checkpoint": header.checkpoint,
        "Data folder": header.data,
        "Images": f"{len(evaluation.names)} ({header.selection})",
        "Date": header.date.isoformat(),
        "Classes": f"{len(evaluation.classes)} and the background; a pixel is called what is likeliest"
        if isinstance(evaluation, ClassesEvaluation)
        else "",
        "Threshold": f"{header.threshold:g}: a pixel is called polyp where its predicted probability is above"
        if isinstance(evaluation, Evaluation)
        else "",
        "Network": f"images stretched to {header.size}x{header.size} pixels"
        + (", mean over 8 flips and quarter turns" if header.augment else ""),
        "Versions": ", ".join(f"{name} {found[name]}" for name in NAMED_VERSIONS),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items() if fact)
    return (
        f"<h1>{_subject(evaluation)}: evaluation</h1>\n<dl>{listed}</dl>\n"
        '<p class="notice">For research. This network is not a medical device: do not use it to diagnose or treat.</p>'
    )


def _gallery(evaluation: ScoredImages, thumbnails: Sequence[Thumbnails]) -> str:
    order = evaluation.image_scores["dice"].argsort(stable=True).tolist()
    if len(order) > WORST_SHOWN + BEST_SHOWN:
        worst, best = order[:WORST_SHOWN], order[-BEST_SHOWN:]
        shown = f"the {len(worst)} worst of {len(order)} images, and the {len(best)} best"
        parts = [worst, best]
        headings = ["", "<h2>Images: the best</h2>\n"]
    else:
        shown, parts, headings = f"all {count(len(order), 'image')}", [order], [""]
    green, blue = (" (green)", " (blue)") if isinstance(evaluation, Evaluation) else ("", "")
    grids = (
        heading
        + '<div class="gallery">\n'
        + "\n".join(_card(evaluation, index, thumbnails[index]) for index in part)
        + "\n</div>"
        for heading, part in zip(headings, parts, strict=True)
    )
    return (
        "<h2>Images: the worst first</h2>\n"
        f"<p>Shown: {shown}, by Dice. Left the truth{green}, right the prediction{blue}. "
        '<span class="screen">Click an image to enlarge it and to see it unmarked.</span></p>\n' + "\n".join(grids)
    )


def _card(evaluation: ScoredImages, index: int, pictures: Thumbnails) -> str:
    name, dice = escape(evaluation.names[index]), evaluation.image_scores["dice"][index].item()
    views = "".join(
        f'<span class="view {kind}"><img loading="lazy" alt="{name}: {label}" src="{data_uri(jpeg, "image/jpeg")}">'
        f"<span>{label}</span></span>"
        for kind, label, jpeg in (
            ("plain", "image", pictures.image),
            ("marked", "truth", pictures.truth),
            ("marked", "prediction", pictures.prediction),
        )
    )
    return (
        f'<figure class="card" id="image-{index}"><a href="#image-{index}">{views}</a>'
        f"<figcaption><b>Dice {dice:.3f}</b> · {_details(evaluation, index)} · {name} "
        f'<a class="close" href="#close">reduce</a></figcaption></figure>'
    )


def _details(evaluation: ScoredImages, index: int) -> str:
    """Return what else is to say of an image: how large the polyp is, or the Dice of each class that occurs."""
    if isinstance(evaluation, Evaluation):
        return f"polyp {100 * evaluation.foreground_share[index].item():.1f} % of the image"
    assert isinstance(evaluation, ClassesEvaluation)
    dice = {name: each.image_scores["dice"][index].item() for name, each in evaluation.classes.items()}
    return ", ".join(f"{escape(name)} {x:.3f}" for name, x in dice.items() if not math.isnan(x)) or "no class"
