"""Draw results: throughput and memory over the batch, layers on the roofline, bytes and launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.attribution import FAST, PLAIN
from benchmarks.results import Report, Result
from benchmarks.roofline import Model
from benchmarks.traffic import NETWORKS, Totals, count

# Colours that differ in lightness too (Okabe and Ito); the plain network is grey and black, the fast one in colour.
_COLOURS = {
    "eager": "#999999",
    "channels_last": "#000000",
    "compile": "#0072B2",
    "FastResUNetPP": "#D55E00",
    "folded": "#009E73",
}
_OTHER = "#CC79A7"


def _axes(columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """Return a figure and its axes, from matplotlib without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#dddddd", linewidth=0.7)
        ax.set_axisbelow(True)
    return figure, axes


def _style(provider: str) -> dict[str, Any]:
    base = provider.partition(",")[0].partition(" ")[0]
    dashed = "CUDA graph" in provider.partition(",")[0]
    return {"color": _COLOURS.get(base, _OTHER), "linestyle": "--" if dashed else "-", "marker": "s" if dashed else "o"}


def sweeps(report: Report) -> list[tuple[str, int]]:
    """Return the precision and size for which the network was measured with several batches, most batches first."""
    batches: dict[tuple[str, int], set[int]] = {}
    for result in report.measured():
        if result.key.group == "network":
            batches.setdefault((result.key.precision, result.key.size), set()).add(result.key.batch)
    return sorted((key for key, found in batches.items() if len(found) > 1), key=lambda key: -len(batches[key]))


def throughput(report: Report, precision: str, size: int, file: Path) -> None:
    """Draw images a second over the batch, training and evaluation side by side, with 20th to 80th percentiles."""
    figure, axes = _axes(2, 10, 4)
    for ax, mode in zip(axes, ("training", "evaluation"), strict=True):
        for provider, results in _lines(report, mode, precision, size).items():
            x, y = [r.key.batch for r in results], [r.images_per_second for r in results]
            low = [r.key.batch / r.spread.p80 for r in results]
            high = [r.key.batch / r.spread.p20 for r in results]
            style = _style(provider)
            ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
            ax.plot(x, y, label=provider, markersize=4, **style)
        _over_batches(ax, report, mode, precision, size)
        ax.set_title("training step" if mode == "training" else mode)
        ax.set_ylabel("images per second")
        ax.margins(y=0.1)
        ax.set_ylim(bottom=0)
    figure.suptitle(
        f"{precision}, {size}x{size}: {report.machine['name']}; bands: 20th to 80th percentile", fontsize=10
    )
    _legend_below(figure, axes, columns=4)
    figure.savefig(file)


def memory(report: Report, precision: str, size: int, file: Path) -> None:
    """Draw memory over the batch: kept for the backward pass, and where measured the peak of a training step."""
    lines = _lines(report, "training", precision, size)
    peaks = any(result.peak for results in lines.values() for result in results)
    figure, axes = _axes(2 if peaks else 1, 10 if peaks else 5.5, 4)
    for ax, measure in zip(axes, (lambda r: r.kept_bytes, _reserved), strict=False):
        for label, points in _coinciding(lines, measure).items():
            ax.plot(*zip(*points, strict=True), label=label, markersize=4, **_style(label))
    for ax, title in zip(axes, ("kept for the backward pass", "reserved at the peak of a training step"), strict=False):
        ax.set_title(title)
        ax.set_ylabel("MB")
        ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("images in a batch")
        ax.legend(fontsize=7, frameon=False, loc="upper left")
    figure.suptitle(f"{precision}, {size}x{size}: {report.machine['name']}", fontsize=10)
    figure.savefig(file)


def _coinciding(
    lines: dict[str, list[Result]], measure: Callable[[Result], int | None]
) -> dict[str, list[tuple[int, float]]]:
    """Return (batch, MB) of each provider; those with the same values are one line with several names."""
    found: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for provider, results in lines.items():
        values = [(result.key.batch, measure(result)) for result in results]
        points = tuple((batch, value / 1e6) for batch, value in values if value is not None)
        if points:
            found.setdefault(points, []).append(provider)
    return {",\n".join(names): list(points) for points, names in found.items()}


def roofline(model: Model, file: Path, measured: Report | None = None) -> None:
    """Draw the modelled time of every layer, plain beside fast, and measured times as points where there are any."""
    rows = model.rows(measured)
    figure, (ax,) = _axes(1, 9, 0.21 * len(rows) + 1.8)
    places = range(len(rows))
    for offset, colour, label, column in ((-0.2, _COLOURS["eager"], "plain network", 0), (0.2, "#D55E00", FAST, 1)):
        bounds = [(row.plain, row.fast)[column] for row in rows]
        at = [place + offset for place in places]
        ax.barh(at, [b.floor for b in bounds], 0.38, color=colour, label=f"{label}: bytes or products, at least")
        left = [b.floor for b in bounds]
        ax.barh(
            at, [b.launches for b in bounds], 0.38, left, color=colour, alpha=0.4, label=f"{label}: launches, assumed"
        )
        times = [(row.measured_plain, row.measured_fast)[column] for row in rows]
        points = [(1e3 * t, place) for t, place in zip(times, at, strict=True) if t is not None]
        if points:
            # A rim of white keeps the mark visible on its own bar.
            style = {"color": colour, "markeredgecolor": "white", "markersize": 6}
            ax.plot(*zip(*points, strict=True), "D", label=f"{label}: measured", **style)
    ax.set_yticks(list(places), [str(row.part) for row in rows], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.margins(y=0.01)
    ax.grid(axis="x", color="#dddddd", linewidth=0.7)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("microseconds of the batch; bars are modelled")
    step = "training step" if model.training else "evaluation"
    ax.set_title(
        f"MODELLED: {step} of {model.batch}x3x{model.size}x{model.size}, {model.precision}, {model.sheet.name}",
        fontsize=10,
    )
    _legend_below(figure, [ax], columns=2)
    figure.savefig(file)


def traffic(batch: int, size: int, file: Path) -> None:
    """Draw counted gigabytes an image and launches, training and evaluation in bfloat16."""
    figure, axes = _axes(2, 8, 3)
    for column, name in enumerate((PLAIN, FAST)):
        totals = [Totals.of(count(NETWORKS[name], mode, torch.bfloat16, batch, size), batch) for mode in (True, False)]
        colour = _COLOURS["FastResUNetPP" if name == FAST else "eager"]
        for ax, values in zip(axes, ([t.gigabytes for t in totals], [float(t.launches) for t in totals]), strict=True):
            ax.margins(y=0.1)
            bars = ax.bar([place + 0.4 * column for place in (0, 1)], values, 0.38, color=colour, label=name)
            ax.bar_label(bars, fmt="%.2f" if ax is axes[0] else "%.0f", fontsize=9)
    for ax, title in zip(axes, ("GB moved for an image", "kernel launches of a step"), strict=True):
        ax.set_xticks([0.2, 1.2], ["training step", "evaluation"])
        ax.set_title(title)
    _legend_below(figure, axes, columns=2)
    figure.suptitle(f"counted, {batch}x3x{size}x{size}, bfloat16 autocast", fontsize=10)
    figure.savefig(file)


def _lines(report: Report, mode: str, precision: str, size: int) -> dict[str, list[Result]]:
    found: dict[str, dict[int, Result]] = {}
    for result in report.measured():
        key = result.key
        if (key.group, key.mode, key.precision, key.size) == ("network", mode, precision, size):
            found.setdefault(key.provider, {})[key.batch] = result
    return {
        provider: [batches[batch] for batch in sorted(batches)]
        for provider, batches in found.items()
        if len(batches) > 1
    }


def _reserved(result: Result) -> int | None:
    return None if result.peak is None else result.peak["reserved"]


def _over_batches(ax: Any, report: Report, mode: str, precision: str, size: int) -> None:
    lines = _lines(report, mode, precision, size).values()
    ticks: Sequence[int] = sorted({result.key.batch for results in lines for result in results})
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("images in a batch")


def _legend_below(figure: Any, axes: Sequence[Any], columns: int) -> None:
    """Put one legend for all axes under them, each label once and those of one network together."""
    labelled = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    labels = sorted(labelled)
    figure.legend(
        [labelled[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )
