"""Write an evaluation as tables for a spreadsheet or a script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastresunet.training.evaluation import ClassesEvaluation, Evaluation, ScoredImages
from fastresunet.training.files import write_csv
from fastresunet.training.metrics import COUNTS, occurs, scores
from fastresunet.training.probability_histogram import (
    CALIBRATION_BINS,
    THRESHOLDS,
    ProbabilityHistogram,
    calibration,
    counts_at_thresholds,
)

SUMMARY_COLUMNS = (
    "metric",
    "images",
    "image_mean",
    "interval_low",
    "interval_high",
    "median",
    "standard_deviation",
    "dataset",
)
CALIBRATION_COLUMNS = ("above", "up_to", "pixels", "predicted_probability", "observed_frequency")
MEAN_OF_CLASSES = "mean of classes"


def write_evaluation(evaluation: ScoredImages, out: Path) -> None:
    """Write the scores of one data set.

    ``per_image.csv`` has a row an image, ``summary.csv`` a row a metric, ``thresholds.csv`` a row a threshold and
    ``calibration.csv`` a row a tenth of the range of probabilities. A field is empty where its value is not defined.

    Of several classes, all but ``per_image.csv``, which has their means, begin with a column for the class;
    ``summary.csv`` has the means over the classes too, and ``per_class.csv`` a row an image and class.

    Args:
        evaluation: scores to write.
        out: folder to write.

    Raises:
        UserError: a file cannot be written.
    """
    metrics = [*evaluation.image_scores]
    if isinstance(evaluation, ClassesEvaluation):
        key, parts, summaries = ["class"], evaluation.classes, {MEAN_OF_CLASSES: evaluation, **evaluation.classes}
        write_csv(out / "per_image.csv", ["image", *metrics], _image_rows(evaluation))
        rows = (_with(name, _image_rows(part)) for name, part in parts.items())
        write_csv(out / "per_class.csv", ["class", "image", *metrics, *COUNTS], itertools.chain.from_iterable(rows))
    else:
        assert isinstance(evaluation, Evaluation)
        key, parts, summaries = [], {"": evaluation}, {"": evaluation}
        write_csv(out / "per_image.csv", ["image", *metrics, *COUNTS], _image_rows(evaluation))

    def write(file: str, header: Sequence[str], rows_of: Mapping[str, list[list[object]]]) -> None:
        rows = (_with(name, rows) if key else rows for name, rows in rows_of.items())
        write_csv(out / file, [*key, *header], itertools.chain.from_iterable(rows))

    write("summary.csv", SUMMARY_COLUMNS, {name: _summary(part) for name, part in summaries.items()})
    write("thresholds.csv", ["threshold", "dice", "iou"], {name: _curve(part) for name, part in parts.items()})
    write("calibration.csv", CALIBRATION_COLUMNS, {name: _calibration(part.histogram) for name, part in parts.items()})


def write_joint_summary(evaluations: Mapping[str, ScoredImages], path: Path) -> None:
    """Write the summaries of several data sets as one table.

    Args:
        evaluations: evaluation of each data set by its name.
        path: CSV file to write, the columns of ``summary.csv`` after one with the name; of several classes their means.

    Raises:
        UserError: the file cannot be written.
    """
    rows = itertools.chain.from_iterable(_with(name, _summary(each)) for name, each in evaluations.items())
    write_csv(path, ["data_set", *SUMMARY_COLUMNS], rows)


def _with(name: str, rows: list[list[object]]) -> list[list[object]]:
    return [[name, *row] for row in rows]


def _image_rows(evaluation: ScoredImages) -> list[list[object]]:
    columns = evaluation.image_scores
    counts = evaluation.counts.tolist() if isinstance(evaluation, Evaluation) else [[]] * len(evaluation.names)
    return [
        [name, *(_number(values[index].item()) for values in columns.values()), *counts[index]]
        for index, name in enumerate(evaluation.names)
    ]


def _curve(evaluation: Evaluation) -> list[list[object]]:
    counts = counts_at_thresholds(evaluation.histogram)
    # As for the scores: a class of several has none where it is neither true nor predicted.
    undefined = ~occurs(counts) & evaluation.one_of_several
    at_thresholds = {name: values.masked_fill(undefined, math.nan) for name, values in scores(counts).items()}
    means = [at_thresholds[metric].nanmean(0).tolist() for metric in ("dice", "iou")]
    return [[f"{threshold:.2f}", *map(_number, values)] for threshold, *values in zip(THRESHOLDS, *means, strict=True)]


def _calibration(histogram: ProbabilityHistogram) -> list[list[object]]:
    return [
        [f"{index / CALIBRATION_BINS:.1f}", f"{(index + 1) / CALIBRATION_BINS:.1f}", pixels, *map(_number, values)]
        for index, (pixels, *values) in enumerate(
            zip(*(column.tolist() for column in calibration(histogram)), strict=True)
        )
    ]


def _summary(evaluation: ScoredImages) -> list[list[object]]:
    totals = evaluation.dataset_scores
    return [
        [
            metric,
            score.images,
            *map(_number, (score.mean, *score.interval, score.median, score.standard_deviation, totals[metric])),
        ]
        for metric, score in evaluation.statistics.items()
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
