"""Write an evaluation as tables for a spreadsheet or a script."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from fastresunet.training.evaluation import Evaluation
from fastresunet.training.files import write_csv
from fastresunet.training.metrics import COUNTS, scores
from fastresunet.training.probability_histogram import CALIBRATION_BINS, THRESHOLDS, calibration, counts_at_thresholds

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


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write the scores of one data set.

    ``per_image.csv`` has a row an image, ``summary.csv`` a row a metric, ``thresholds.csv`` a row a threshold and
    ``calibration.csv`` a row a tenth of the range of probabilities. A field is empty where its value is not defined.

    Args:
        evaluation: scores to write.
        out: folder to write.

    Raises:
        UserError: a file cannot be written.
    """
    columns = evaluation.image_scores
    rows = [
        [name, *(_number(values[index].item()) for values in columns.values()), *evaluation.counts[index].tolist()]
        for index, name in enumerate(evaluation.names)
    ]
    write_csv(out / "per_image.csv", ["image", *columns, *COUNTS], rows)
    write_csv(out / "summary.csv", SUMMARY_COLUMNS, _summary(evaluation))
    at_thresholds = scores(counts_at_thresholds(evaluation.histogram))
    means = [at_thresholds[metric].mean(0).tolist() for metric in ("dice", "iou")]
    curve = [[f"{threshold:.2f}", *map(_number, values)] for threshold, *values in zip(THRESHOLDS, *means, strict=True)]
    write_csv(out / "thresholds.csv", ["threshold", "dice", "iou"], curve)
    tenths = [
        [f"{index / CALIBRATION_BINS:.1f}", f"{(index + 1) / CALIBRATION_BINS:.1f}", pixels, *map(_number, values)]
        for index, (pixels, *values) in enumerate(
            zip(*(column.tolist() for column in calibration(evaluation.histogram)), strict=True)
        )
    ]
    header = ["above", "up_to", "pixels", "predicted_probability", "observed_frequency"]
    write_csv(out / "calibration.csv", header, tenths)


def write_joint_summary(evaluations: Mapping[str, Evaluation], path: Path) -> None:
    """Write the summaries of several data sets as one table.

    Args:
        evaluations: evaluation of each data set by its name.
        path: CSV file to write, the columns of ``summary.csv`` after one with the name.

    Raises:
        UserError: the file cannot be written.
    """
    rows = [[name, *row] for name, evaluation in evaluations.items() for row in _summary(evaluation)]
    write_csv(path, ["data_set", *SUMMARY_COLUMNS], rows)


def _summary(evaluation: Evaluation) -> list[list[object]]:
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
