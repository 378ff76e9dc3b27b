"""Render a file of results as a page with tables and pictures.

Run: python -m benchmarks.report benchmarks/report/results.json [--out benchmarks/report]
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.gpus import DATA_SHEETS, data_sheet_of
from benchmarks.providers import BASELINE
from benchmarks.results import Key, Report, Result, by_case
from benchmarks.roofline import Model, describe

_GROUPS = {"network": "Whole network", "block": "Blocks", "layer": "Operations"}


def render(report: Report, folder: Path) -> Path:
    """Write ``README.md`` and its pictures, and return the page.

    Args:
        report: what was measured.
        folder: where; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = [
        f"# Benchmarks on {report.machine['name']}",
        "Written by `python -m benchmarks.report`. How it is measured: [docs/benchmarks.md](../../docs/benchmarks.md).",
        machine_table(report),
        *(f"> Warning: {note}" for note in report.notes),
    ]
    for group, title in _GROUPS.items():
        found = [(case, results) for case, results in by_case(report.results).items() if case.group == group]
        if found:
            sections += [f"## {title}", table(found)]
        if group == "network":
            sections += draw(report, folder)
    sections += [_modelled(report, folder), _problems(report)]
    page = folder / "README.md"
    page.write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")
    return page


def joined(reports: Sequence[Report]) -> Report:
    """Return the results of several runs on one machine as one; machine and settings are the first run's.

    Raises:
        ValueError: they are of several machines.
    """
    first, *others = reports
    if any(other.machine["name"] != first.machine["name"] for other in others):
        raise ValueError(f"results of several machines: {', '.join(str(r.machine['name']) for r in reports)}")
    for other in others:
        first.results += other.results
        first.skipped += other.skipped
        first.notes += [note for note in other.notes if note not in first.notes]
        first.states["after"] = other.states.get("after", "")
        first.largest_batches |= other.largest_batches
    return first


def draw(report: Report, folder: Path) -> list[str]:
    """Draw what the results allow, and return the pictures with what they show."""
    if not _can_draw():
        return ["Pictures: not available: matplotlib is not installed"]
    found = []
    for precision, size in plots.sweeps(report)[:1]:
        plots.throughput(report, precision, size, folder / "throughput.png")
        plots.memory(report, precision, size, folder / "memory.png")
        found += ["![Throughput over the batch](throughput.png)", "![Memory over the batch](memory.png)"]
    return found


def _modelled(report: Report, folder: Path) -> str:
    """Return what a step takes by the model, on this GPU or on one of the data sheets, beside what was measured."""
    model = Model(data_sheet_of(report.machine["name"]) or DATA_SHEETS["h100"])
    step = model.total(report)
    columns = (("FastResUNetPP", step.fast, step.measured_fast), ("plain, eager", step.plain, step.measured_plain))
    rows = [
        [
            name,
            f"{bound.floor / 1e3:.2f}",
            f"{bound.total / 1e3:.2f}",
            "not available" if time is None else f"{time:.2f}",
        ]
        for name, bound, time in columns
    ]
    heading = ["ms", "bytes or products, at least", "with launches", "measured"]
    sections = [f"## Modelled and counted\n\n{describe(model)}.", _markdown(heading, rows)]
    if _can_draw():
        plots.roofline(model, folder / "roofline.png", report)
        plots.traffic(model.batch, model.size, folder / "traffic.png")
        sections += ["![Modelled time of every layer](roofline.png)", "![Counted bytes and launches](traffic.png)"]
    return "\n\n".join(sections)


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def machine_table(report: Report) -> str:
    """Return machine, software and how it was measured as a table."""
    machine = report.machine
    gpu: Any = machine["gpu"]
    rows = {
        "machine": machine["name"],
        "GPU": gpu if isinstance(gpu, str) else ", ".join(f"{key} {value}" for key, value in gpu.items()),
        "processor": f"{machine['processor']}, threads of PyTorch: {machine['threads']}",
        "software": ", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
        "Python, CUDA, cuDNN": f"{machine['python']}, {machine['cuda']}, {machine['cudnn']}",
        "source revision": machine["revision"],
        "flags": ", ".join(f"{name}={value}" for name, value in machine["flags"].items()),
        "GPU before": report.states.get("before", ""),
        "GPU after": report.states.get("after", ""),
    }
    return _markdown(["", ""], [[key, str(value)] for key, value in rows.items()])


def table(cases: Iterable[tuple[Key, dict[str, Result]]]) -> str:
    """Return a table with a line for every measured result."""
    rows = []
    for case, results in cases:
        title = f"{case.subject}, {case.mode}, {case.precision}, {case.batch}x{case.size}x{case.size}"
        baseline = results.get(BASELINE)
        for provider, result in results.items():
            if result.seconds:
                rows.append([title, provider, *_cells(result, baseline)])
                title = ""
    heading = [
        "case",
        "computed by",
        "median ms",
        "p20 to p80",
        "times eager",
        "error",
        "kept MB",
        "peak MB",
        "J/image",
    ]
    used = [column for column in range(len(heading)) if any(row[column] for row in rows)]
    return _markdown([heading[k] for k in used], [[row[k] for k in used] for row in rows])


def _cells(result: Result, baseline: Result | None) -> list[str]:
    spread = result.spread
    ratio = "" if baseline is None or not baseline.seconds else f"{baseline.spread.median / spread.median:.2f}"
    verdict = result.verdict or {}
    energy = result.joules_per_image
    return [
        f"{1e3 * spread.median:.3f}",
        f"{1e3 * spread.p20:.3f} to {1e3 * spread.p80:.3f}",
        ratio,
        f"{verdict['errors']['outputs']:.0e}" if verdict else "",
        "" if result.kept_bytes is None else f"{result.kept_bytes / 1e6:.1f}",
        "" if result.peak is None else f"{result.peak['reserved'] / 1e6:.0f}",
        f"{energy:.3f}" if isinstance(energy, float) else "",
    ]


def _problems(report: Report) -> str:
    reasons: dict[str, list[str]] = {}
    for result in report.results:
        if result.obstacle:
            reasons.setdefault(f"{result.key.provider}: {result.obstacle}", []).append(str(result.key))
    lines = [f"* {reason} ({len(keys)} cases, first: {keys[0]})" for reason, keys in reasons.items()]
    lines += [f"* no time: {title}" for title in report.skipped]
    lines += [f"* largest batch, {title}: {batch}" for title, batch in report.largest_batches.items()]
    return "## Not measured\n\n" + "\n".join(lines) if lines else ""


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def main() -> None:
    """Render and print where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="files of one machine")
    parser.add_argument("--out", type=Path, help="(default: the folder of the first file)")
    options = parser.parse_args()
    print(render(joined([Report.read(file) for file in options.results]), options.out or options.results[0].parent))


if __name__ == "__main__":
    main()
