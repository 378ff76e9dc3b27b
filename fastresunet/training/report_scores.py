"""Tables of scores in a report."""

from __future__ import annotations

from html import escape

import torch
from torch import Tensor

from fastresunet.training.data_format import DataFormat
from fastresunet.training.evaluation import SURFACE_DISTANCES, ClassesEvaluation, Evaluation, ScoredImages
from fastresunet.training.report_html import count, decimals, table
from fastresunet.training.statistics import Statistics

MEANINGS = {
    "dice": ("Dice", "overlap of predicted and true {thing}: 1 is perfect, 0 is none"),
    "iou": ("IoU", "intersection over union of predicted and true {thing}, a stricter form of Dice"),
    "miou": ("mIoU", "IoU averaged over polyp and background"),
    "recall": ("Recall", "share of the true {thing} that was found (sensitivity)"),
    "precision": ("Precision", "share of the prediction that is {thing} (positive predictive value)"),
    "f2": ("F2", "as Dice, with recall weighing four times as much as precision"),
    "accuracy": ("Accuracy", "share of all pixels that are right; high wherever a {thing} is small"),
    "hausdorff_95": ("Hausdorff 95 %, px", "distance between the outlines in pixels, exceeded by 5 % of their points"),
    "surface_distance": ("Surface distance, px", "mean distance between the outlines in pixels"),
}
OVER_CLASSES = (
    " The scores of an image are means over the classes, without the background, that are true or predicted there."
)


def in_words(name: str, score: Statistics) -> str:
    """Return a mean with its interval, as a sentence can hold it.

    Args:
        name: what the score is called.
        score: the score.
    """
    low, high = score.interval
    return f"{name} {score.mean:.3f}, 95 % interval {low:.3f} to {high:.3f}"


def scores_section(evaluation: ScoredImages) -> str:
    """Return the table of all metrics, with what they mean.

    Args:
        evaluation: scores to show; of several classes their means.
    """
    several = isinstance(evaluation, ClassesEvaluation)
    thing = "class" if several else "polyp"
    statistics, totals = evaluation.statistics, evaluation.dataset_scores
    rows = []
    for metric, score in statistics.items():
        name, meaning = MEANINGS[metric][0], MEANINGS[metric][1].format(thing=thing)
        digits = 1 if metric in SURFACE_DISTANCES else 3
        low, high = (decimals(end, digits) for end in score.interval)
        values = (
            decimals(score.mean, digits),
            f"{low} to {high}",
            decimals(score.median, digits),
            decimals(score.standard_deviation, digits),
            decimals(totals[metric], digits),
        )
        rows.append(
            [
                f"<b>{name}</b>",
                *values,
                f'<span class="meaning">{meaning}</span>',
            ]
        )
    headings = ("", "mean", "95 % interval", "median", "std. dev.", "data set", "meaning")
    undefined = evaluation.without_surface_distances
    left_out = (
        f" Distances are not defined for {count(undefined, 'image')} in which nothing is there or nothing was "
        "predicted; they are left out of the distances."
        if undefined
        else ""
    )
    return (
        f'<h2>Scores</h2>\n<p class="headline"><b>{in_words("Dice", statistics["dice"])}.</b></p>\n'
        f"<p>The best constant prediction, the same answer for every pixel of every image, has Dice "
        f"<b>{evaluation.best_constant_dice:.3f}</b>: what the network knows is the difference.</p>\n"
        + table(headings, rows, numbers=range(1, 6))
        + '\n<p class="quiet">Mean, median and standard deviation are over the images; each image weighs the same. The '
        "interval says how far the mean would move with other images of the same kind (percentile bootstrap over the "
        "images). “Data set” takes the pixels of all images together, so that large "
        f"{'areas' if several else 'polyps'} weigh more.{OVER_CLASSES if several else ''}{left_out}</p>"
    )


def classes_section(evaluation: ClassesEvaluation, form: DataFormat) -> str:
    """Return the table of all classes.

    Args:
        evaluation: scores to show.
        form: of the masks, whose colours the pictures have.
    """
    rows = []
    for (name, each), colour in zip(evaluation.classes.items(), form.colours, strict=True):
        dice = each.statistics["dice"]
        swatch = f'<span class="swatch" style="background: rgb{colour}"></span>'
        others = (each.statistics[metric].mean for metric in ("iou", "recall", "precision"))
        low, high = (decimals(end, 3) for end in dice.interval)
        means = decimals(dice.mean, 3), f"{low} to {high}", *(decimals(mean, 3) for mean in others)
        rows.append([f"{swatch}<b>{escape(name)}</b>", f"{dice.images}", *means])
    headings = ("class", "images", "Dice", "95 % interval", "IoU", "recall", "precision")
    return (
        "<h2>Classes</h2>\n"
        "<p>Each class against all others, mean over the images in which it is true or predicted.</p>\n"
        + table(headings, rows, numbers=range(1, 7))
    )


def sizes_section(evaluation: Evaluation) -> str:
    """Return the table of Dice by the size of the polyp.

    Args:
        evaluation: scores to show.
    """
    share, dice = evaluation.foreground_share, evaluation.image_scores["dice"]
    order = [index for index in share.argsort(stable=True).tolist() if share[index] > 0]
    groups = [group for group in torch.tensor(order, dtype=torch.int64).tensor_split(4) if len(group)]
    rows = [_size_row(share[group], dice[group]) for group in groups]
    empty = int((share == 0).sum())
    without = f" {count(empty, 'image')} without polyp in no group." if empty else ""
    headings = ("polyp, % of the image's pixels", "images", "mean Dice", "lowest Dice")
    return (
        "<h2>Dice by size of the polyp</h2>\n"
        f"<p>The images in four groups of about equal number, from the smallest polyps to the largest.{without}</p>\n"
        + table(headings, rows, numbers=range(1, 4))
    )


def _size_row(share: Tensor, dice: Tensor) -> list[str]:
    low, high = (f"{100 * value:.1f}" for value in (share.min().item(), share.max().item()))
    return [f"{low} to {high}", f"{len(dice)}", f"{dice.mean():.3f}", f"{dice.min():.3f}"]
