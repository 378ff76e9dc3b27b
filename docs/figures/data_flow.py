"""Draws data_flow.png beside this file: what passes between the operations of one residual block."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

IMAGE, VECTOR, OPERATION, GONE = "#2a6f97", "#e09f3e", "#f1f3f5", "#adb5bd"


def box(axes: Axes, x: float, y: float, width: float, text: str, color: str, white: bool = False) -> None:
    """Draw a rounded box centred at (x, y)."""
    patch = FancyBboxPatch(
        (x - width / 2, y - 0.32),
        width,
        0.64,
        boxstyle="round,pad=0.02,rounding_size=0.08",
        fc=color,
        ec="#343a40",
        lw=0.8,
    )
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color="white" if white else "#212529")


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = "#343a40", width: float = 1.2
) -> None:
    """Draw an arrow."""
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": width, "shrinkA": 0, "shrinkB": 0}
    )


def plain(axes: Axes) -> None:
    """Draw the block as PyTorch runs it: every step hands on an image."""
    axes.set_title("plain PyTorch: ten images pass between operations", fontsize=10, loc="left")
    steps = ["BatchNorm", "ReLU", "conv 3x3", "BatchNorm", "ReLU", "conv 3x3", "add", "SE scale"]
    for i, step in enumerate(steps):
        x = 1.0 + 1.55 * i
        box(axes, x, 1.0, 1.05, step, OPERATION)
        arrow(axes, (x + 0.53, 1.0), (x + 1.02, 1.0), IMAGE, 3)
    arrow(axes, (0.0, 1.0), (0.47, 1.0), IMAGE, 3)
    box(axes, 3.3, 0.0, 1.05, "conv 1x1", OPERATION)
    box(axes, 6.4, 0.0, 1.05, "BatchNorm", OPERATION)
    arrow(axes, (0.2, 1.0), (2.77, 0.05), IMAGE, 3)
    arrow(axes, (3.83, 0.0), (5.87, 0.0), IMAGE, 3)
    arrow(axes, (6.93, 0.0), (9.85, 0.67), IMAGE, 3)


def fused(axes: Axes) -> None:
    """Draw the block as this package runs it: three images, all else is small vectors."""
    axes.set_title(
        "fastresunet: three images pass between operations, two are kept for the backward pass", fontsize=10, loc="left"
    )
    box(axes, 4.0, 1.1, 3.2, "conv 3x3, reads relu((x - c) s + t)", OPERATION)
    box(axes, 9.6, 1.1, 3.8, "conv 3x3, reads relu((u - c) s + t), adds r", OPERATION)
    box(axes, 4.0, 0.0, 3.6, "BatchNorm(conv 1x1 of x), recomputed", OPERATION)
    arrow(axes, (0.0, 1.1), (2.4, 1.1), IMAGE, 3)
    arrow(axes, (0.6, 1.1), (2.2, 0.05), IMAGE, 3)
    arrow(axes, (5.6, 1.1), (7.7, 1.1), IMAGE, 3)
    arrow(axes, (5.8, 0.0), (8.4, 0.76), IMAGE, 3)
    arrow(axes, (11.5, 1.1), (13.4, 1.1), IMAGE, 3)
    axes.text(0.1, 1.28, "x", fontsize=9, color=IMAGE)
    axes.text(6.5, 1.28, "u", fontsize=9, color=IMAGE)
    axes.text(7.0, 0.12, "r", fontsize=9, color=IMAGE)
    axes.text(12.3, 1.28, "y", fontsize=9, color=IMAGE)
    for x, text in ((4.0, "mean, M2 of x  ->  scale, shift"), (9.6, "mean, M2 of u  ->  scale, shift")):
        box(axes, x, 2.35, 2.9, text, VECTOR)
        arrow(axes, (x, 2.0), (x, 1.45), VECTOR, 1.2)
    box(axes, 13.0, 2.35, 2.7, "mean of y  ->  SE gate", VECTOR)
    arrow(axes, (6.4, 1.15), (8.15, 2.2), VECTOR)
    arrow(axes, (12.4, 1.15), (12.8, 1.98), VECTOR)
    arrow(axes, (14.35, 2.35), (14.9, 2.35), VECTOR)


def main() -> None:
    """Write the picture."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(11, 5.2), height_ratios=(2, 3))
    plain(top)
    fused(bottom)
    top.set_ylim(-0.5, 1.6)
    bottom.set_ylim(-0.5, 2.9)
    for axes in (top, bottom):
        axes.set_xlim(-0.1, 15.0)
        axes.axis("off")
    figure.text(0.02, 0.012, "thick blue: an image (N, C, H, W)     thin orange: vectors (N, C)", fontsize=8.5)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
