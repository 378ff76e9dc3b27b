"""A report of an evaluation for people: one HTML file that needs nothing else, on screen and on paper."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from fastresunet.training import charts
from fastresunet.training.evaluation import SURFACE_DISTANCES, Evaluation
from fastresunet.training.files import write_atomically
from fastresunet.training.gallery import Gallery, Thumbnails
from fastresunet.training.info import versions
from fastresunet.training.metrics import scores
from fastresunet.training.probability_histogram import THRESHOLDS, calibration, counts_at_thresholds
from fastresunet.training.report_style import STYLE
from fastresunet.training.statistics import Statistics

# About 55 KB an image: a report weighs 7 MB at most.
WORST_SHOWN = 120
BEST_SHOWN = 12
NAMED_VERSIONS = ("fastresunet", "torch", "python")
MEANINGS = {
    "dice": ("Dice", "overlap of predicted and true polyp: 1 is perfect, 0 is none"),
    "iou": ("IoU", "intersection over union of predicted and true polyp, a stricter form of Dice"),
    "miou": ("mIoU", "IoU averaged over polyp and background"),
    "recall": ("Recall", "share of the true polyp that was found (sensitivity)"),
    "precision": ("Precision", "share of the prediction that is polyp (positive predictive value)"),
    "f2": ("F2", "as Dice, with recall weighing four times as much as precision"),
    "accuracy": ("Accuracy", "share of all pixels that are right; high wherever polyps are small"),
    "hausdorff_95": ("Hausdorff 95 %, px", "distance between the outlines in pixels, exceeded by 5 % of their points"),
    "surface_distance": ("Surface distance, px", "mean distance between the outlines in pixels"),
}


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


def write_report(path: Path, header: ReportHeader, evaluation: Evaluation, gallery: Gallery) -> None:
    """Write the report.

    Args:
        path: HTML file to write.
        header: where the scores come from.
        evaluation: scores to show.
        gallery: pictures of its images, in the same order.

    Raises:
        UserError: the file cannot be written.
    """
    sections = [
        _title(header, evaluation),
        _scores(evaluation),
        _charts(header, evaluation),
        _sizes(evaluation),
        _gallery(evaluation, gallery.thumbnails),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Polyp segmentation: {escape(header.data)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )
    write_atomically(path, page.encode())


def in_words(name: str, score: Statistics) -> str:
    """Return a mean with its interval, as a sentence can hold it.

    Args:
        name: what the score is called.
        score: the score.
    """
    low, high = score.interval
    return f"{name} {score.mean:.3f}, 95 % interval {low:.3f} to {high:.3f}"


def _title(header: ReportHeader, evaluation: Evaluation) -> str:
    found = versions()
    facts = {
        "Checkpoint": header.checkpoint,
        "Data folder": header.data,
        "Images": f"{len(evaluation.names)} ({header.selection})",
        "Date": header.date.isoformat(),
        "Threshold": f"{header.threshold:g}: a pixel is called polyp where its predicted probability is above",
        "Network": f"images stretched to {header.size}x{header.size} pixels"
        + (", mean over 8 flips and quarter turns" if header.augment else ""),
        "Versions": ", ".join(f"{name} {found[name]}" for name in NAMED_VERSIONS),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return (
        f"<h1>Polyp segmentation: evaluation</h1>\n<dl>{listed}</dl>\n"
        '<p class="notice">For research. This network is not a medical device: do not use it to diagnose or treat.</p>'
    )


def _scores(evaluation: Evaluation) -> str:
    statistics, totals = evaluation.statistics, evaluation.dataset_scores
    rows = []
    for metric, score in statistics.items():
        name, meaning = MEANINGS[metric]
        digits = 1 if metric in SURFACE_DISTANCES else 3
        low, high = (_decimals(end, digits) for end in score.interval)
        values = (
            _decimals(score.mean, digits),
            f"{low} to {high}",
            _decimals(score.median, digits),
            _decimals(score.standard_deviation, digits),
            _decimals(totals[metric], digits),
        )
        rows.append([f"<b>{name}</b>", *values, f'<span class="meaning">{meaning}</span>'])
    headings = ("", "mean", "95 % interval", "median", "std. dev.", "data set", "meaning")
    undefined = evaluation.without_surface_distances
    left_out = (
        f" Distances are not defined for {_count(undefined, 'image')} in which nothing is polyp or nothing was "
        "predicted; they are left out of the distances."
        if undefined
        else ""
    )
    return (
        f'<h2>Scores</h2>\n<p class="headline"><b>{in_words("Dice", statistics["dice"])}.</b></p>\n'
        f"<p>The best constant prediction, the same answer for every pixel of every image, has Dice "
        f"<b>{evaluation.best_constant_dice:.3f}</b>: what the network knows is the difference.</p>\n"
        + _table(headings, rows, numbers=range(1, 6))
        + '\n<p class="quiet">Mean, median and standard deviation are over the images; each image weighs the same. The '
        "interval says how far the mean would move with other images of the same kind (percentile bootstrap over the "
        "images). “Data set” takes the pixels of all images together, so that large polyps weigh more."
        f"{left_out}</p>"
    )


def _charts(header: ReportHeader, evaluation: Evaluation) -> str:
    dice = evaluation.image_scores["dice"]
    at_thresholds = scores(counts_at_thresholds(evaluation.histogram))
    mean_dice, mean_iou = (at_thresholds[metric].mean(0) for metric in ("dice", "iou"))
    best = int(mean_dice.argmax())
    calibrated = calibration(evaluation.histogram)
    drawings = [
        (
            charts.dice_histogram(dice),
            "Histogram of Dice",
            f"How many images have which Dice. {_count(int((dice < 0.5).sum()), 'image')} of {len(dice)} below 0.5.",
        ),
        (
            charts.threshold_curve(mean_dice, mean_iou, header.threshold),
            "Mean Dice and IoU over the threshold",
            f"Scores at other thresholds. Dice is highest at {THRESHOLDS[best]:.2f} with {mean_dice[best]:.3f}; a "
            "threshold chosen on these images would flatter them.",
        ),
        (
            charts.calibration_curve(calibrated),
            "Calibration",
            "Of the pixels given a probability, how many are polyp. Below the dotted line the network is too sure of "
            f"polyp, above it not sure enough. Expected calibration error {calibrated.expected_error:.3f}.",
        ),
    ]
    share = evaluation.foreground_share
    if (share > 0).any():
        drawing = charts.dice_by_size(share[share > 0], dice[share > 0])
        drawings.append((drawing, "Dice by size of the polyp", "Dice of each image with a polyp by the polyp's size."))
    figures = "\n".join(
        f'<figure><img alt="{title}" src="{_data_uri(svg, "image/svg+xml")}">'
        f"<figcaption><b>{title}.</b> {text}</figcaption></figure>"
        for svg, title, text in drawings
    )
    return f'<h2>Charts</h2>\n<div class="charts">\n{figures}\n</div>'


def _sizes(evaluation: Evaluation) -> str:
    share, dice = evaluation.foreground_share, evaluation.image_scores["dice"]
    order = [index for index in share.argsort(stable=True).tolist() if share[index] > 0]
    groups = [group for group in torch.tensor(order, dtype=torch.int64).tensor_split(4) if len(group)]
    rows = [_size_row(share[group], dice[group]) for group in groups]
    empty = int((share == 0).sum())
    without = f" {_count(empty, 'image')} without polyp in no group." if empty else ""
    headings = ("polyp, % of the image's pixels", "images", "mean Dice", "lowest Dice")
    return (
        "<h2>Dice by size of the polyp</h2>\n"
        f"<p>The images in four groups of about equal number, from the smallest polyps to the largest.{without}</p>\n"
        + _table(headings, rows, numbers=range(1, 4))
    )


def _size_row(share: Tensor, dice: Tensor) -> list[str]:
    low, high = (f"{100 * value:.1f}" for value in (share.min().item(), share.max().item()))
    return [f"{low} to {high}", f"{len(dice)}", f"{dice.mean():.3f}", f"{dice.min():.3f}"]


def _gallery(evaluation: Evaluation, thumbnails: Sequence[Thumbnails]) -> str:
    order = evaluation.image_scores["dice"].argsort(stable=True).tolist()
    if len(order) > WORST_SHOWN + BEST_SHOWN:
        worst, best = order[:WORST_SHOWN], order[-BEST_SHOWN:]
        shown = f"the {len(worst)} worst of {len(order)} images, and the {len(best)} best"
        parts = [worst, best]
        headings = ["", "<h2>Images: the best</h2>\n"]
    else:
        shown, parts, headings = f"all {_count(len(order), 'image')}", [order], [""]
    grids = (
        heading
        + '<div class="gallery">\n'
        + "\n".join(_card(evaluation, index, thumbnails[index]) for index in part)
        + "\n</div>"
        for heading, part in zip(headings, parts, strict=True)
    )
    return (
        "<h2>Images: the worst first</h2>\n"
        f"<p>Shown: {shown}, by Dice. Left the truth (green), right the prediction (blue). "
        '<span class="screen">Click an image to enlarge it and to see it unmarked.</span></p>\n' + "\n".join(grids)
    )


def _card(evaluation: Evaluation, index: int, pictures: Thumbnails) -> str:
    name, dice = escape(evaluation.names[index]), evaluation.image_scores["dice"][index].item()
    views = "".join(
        f'<span class="view {kind}"><img loading="lazy" alt="{name}: {label}" src="{_data_uri(jpeg, "image/jpeg")}">'
        f"<span>{label}</span></span>"
        for kind, label, jpeg in (
            ("plain", "image", pictures.image),
            ("marked", "truth", pictures.truth),
            ("marked", "prediction", pictures.prediction),
        )
    )
    share = 100 * evaluation.foreground_share[index].item()
    return (
        f'<figure class="card" id="image-{index}"><a href="#image-{index}">{views}</a>'
        f"<figcaption><b>Dice {dice:.3f}</b> · polyp {share:.1f} % of the image · {name} "
        f'<a class="close" href="#close">reduce</a></figcaption></figure>'
    )


def _table(headings: Iterable[str], rows: Iterable[Sequence[str]], numbers: range) -> str:
    def line(tag: str, cells: Iterable[str]) -> str:
        marked = (
            f'<{tag} class="number">{cell}</{tag}>' if column in numbers else f"<{tag}>{cell}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>\n{line("th", headings)}\n{body}\n</table></div>'


def _decimals(value: float, digits: int) -> str:
    return "&ndash;" if math.isnan(value) else f"{value:.{digits}f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
