"""Show evaluations on a terminal, in 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table

from fastresunet.training.evaluation import ScoredImages


def score_table(evaluation: ScoredImages, title: str) -> Table:
    """Return a table with a row a metric.

    Args:
        evaluation: scores to show.
        title: text above the table.
    """
    table = Table(title=title)
    for heading in ("metric", "mean", "95 % interval", "median", "std. dev.", "data set"):
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    totals = evaluation.dataset_scores
    for metric, score in evaluation.statistics.items():
        low, high = map(_number, score.interval)
        spread = _number(score.median), _number(score.standard_deviation)
        table.add_row(metric, _number(score.mean), f"{low} - {high}", *spread, _number(totals[metric]))
    return table


def joint_table(evaluations: Mapping[str, ScoredImages], kind: str = "data set") -> Table:
    """Return a table with a row a data set, or a class: the means over its images.

    Args:
        evaluations: evaluation of each by its name.
        kind: what they are.
    """
    table = Table(title=f"Means over the images of each {kind}")
    table.add_column(kind, overflow="fold")
    for heading in ("images", "dice", "95 % interval", "iou", "recall", "precision"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, evaluation in evaluations.items():
        dice, iou, recall, precision = (
            evaluation.statistics[metric] for metric in ("dice", "iou", "recall", "precision")
        )
        low, high = dice.interval
        means = [f"{score.mean:.3f}" for score in (dice, iou, recall, precision)]
        # What occurs nowhere has no scores.
        cells = [means[0], f"{low:.3f} - {high:.3f}", *means[1:]] if dice.images else [""] * 5
        table.add_row(name, f"{dice.images}", *cells)
    return table


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    # Distances in pixels are longer than scores in 0..1.
    return f"{value:.4f}" if value < 10 else f"{value:.2f}"
