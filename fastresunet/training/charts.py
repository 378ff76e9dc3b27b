"""Charts of an evaluation as SVG: one design, told apart by shape and shade as well as by colour."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from fastresunet.training.probability_histogram import THRESHOLDS, Calibration

# Blue and vermilion of Okabe and Ito differ for every kind of colour vision, and in grey.
FIRST_COLOUR, SECOND_COLOUR, GUIDE_COLOUR = "#0072B2", "#D55E00", "#666666"
WIDTH_INCHES, HEIGHT_INCHES = 4.6, 3.1
# Any, as matplotlib types the names of its settings one by one.
DESIGN: Any = {
    "svg.hashsalt": "fastresunet",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


class Chart:
    """A chart while it is drawn.

    Args:
        x_label: quantity and unit of the horizontal axis.
        y_label: quantity and unit of the vertical axis.
    """

    def __init__(self, x_label: str, y_label: str) -> None:
        self.figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        # The canvas draws without a display, and leaves the caller's choice of matplotlib backend alone.
        FigureCanvasSVG(self.figure)
        self.axes: Axes = self.figure.subplots()
        self.axes.set_xlabel(x_label)
        self.axes.set_ylabel(y_label)

    def svg(self) -> bytes:
        """Return the file, the same for the same numbers."""
        encoded = io.BytesIO()
        self.figure.savefig(encoded, format="svg", metadata={"Date": None})
        return encoded.getvalue()


@contextmanager
def _design() -> Iterator[None]:
    with matplotlib.rc_context(DESIGN):
        yield


@_design()
def dice_histogram(dice: Tensor) -> bytes:
    """Draw how many images have which Dice.

    Args:
        dice: float64 tensor (images,).

    Returns:
        SVG file.
    """
    chart = Chart("Dice of an image", "images")
    chart.axes.hist(dice.numpy(), bins=20, range=(0, 1), color=FIRST_COLOUR, edgecolor="white", linewidth=0.8)
    mean = dice.mean().item()
    chart.axes.axvline(mean, color=SECOND_COLOUR, linestyle="--", label=f"mean {mean:.3f}")
    chart.axes.set_xlim(0, 1)
    chart.axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    chart.axes.legend(loc="upper left")
    return chart.svg()


@_design()
def threshold_curve(dice: Tensor, iou: Tensor, threshold: float) -> bytes:
    """Draw the mean scores over the threshold.

    Args:
        dice: float64 tensor (19,), mean Dice at each of ``THRESHOLDS``.
        iou: float64 tensor (19,), mean IoU at each of ``THRESHOLDS``.
        threshold: threshold of the evaluation, to be marked.

    Returns:
        SVG file.
    """
    chart = Chart("threshold (probability)", "mean over the images")
    chart.axes.plot(THRESHOLDS, dice.numpy(), color=FIRST_COLOUR, marker="o", markersize=4, label="Dice")
    chart.axes.plot(THRESHOLDS, iou.numpy(), color=SECOND_COLOUR, marker="s", markersize=4, label="IoU", linestyle="--")
    chart.axes.axvline(threshold, color=GUIDE_COLOUR, linestyle=":", label=f"used here: {threshold:g}")
    chart.axes.set_xlim(0, 1)
    chart.axes.set_ylim(0, 1)
    chart.axes.legend(loc="lower center", ncols=3)
    return chart.svg()


@_design()
def calibration_curve(calibration: Calibration, name: str = "polyp") -> bytes:
    """Draw observed frequency over predicted probability.

    Args:
        calibration: what to draw; bins without a pixel are left out.
        name: of what the probabilities are of.

    Returns:
        SVG file.
    """
    chart = Chart("predicted probability (mean of a tenth)", f"share that is truly {name}")
    chart.axes.plot([0, 1], [0, 1], color=GUIDE_COLOUR, linestyle=":", label="perfectly calibrated")
    filled = calibration.pixels > 0
    predicted, observed = calibration.predicted[filled].numpy(), calibration.observed[filled].numpy()
    chart.axes.plot(predicted, observed, color=FIRST_COLOUR, marker="o", markersize=4, label="this network")
    chart.axes.set_xlim(0, 1)
    chart.axes.set_ylim(0, 1)
    chart.axes.legend(loc="upper left")
    return chart.svg()


@_design()
def dice_by_size(share: Tensor, dice: Tensor) -> bytes:
    """Draw the Dice of each image over the size of its polyp.

    Args:
        share: float64 tensor (images,), share of the image's pixels that is polyp, above 0.
        dice: float64 tensor (images,).

    Returns:
        SVG file.
    """
    chart = Chart("polyp, % of the image's pixels (logarithmic)", "Dice of an image")
    percent = 100 * share.numpy()
    chart.axes.scatter(percent, dice.numpy(), s=14, color=FIRST_COLOUR, alpha=0.7, linewidths=0)
    chart.axes.set_xscale("log")
    decades = np.array([factor * 10.0**exponent for exponent in range(-4, 3) for factor in (1, 2, 5)])
    ticks = decades[(decades >= percent.min() / 2) & (decades <= min(100, percent.max() * 2))]
    chart.axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    chart.axes.minorticks_off()
    chart.axes.set_ylim(-0.02, 1.02)
    return chart.svg()
