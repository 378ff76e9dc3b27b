"""Model how long each layer takes on a GPU at least, from counted bytes, operations and launches. Nothing is measured.

Assumptions: every launch moves its operands at the full bandwidth of the memory (no cache helps) while it computes its
products at the full rate of the data sheet, whichever takes longer; a launch costs a fixed time on top. Real kernels
reach part of either, and an eager step whose launches the host cannot queue fast enough takes longer than modelled.
The plain network is counted as eager PyTorch runs it, with a kernel for each operation.

Run: python -m benchmarks.roofline [--gpu h100] [--evaluation] [--precision bf16] [--measured results.json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.attribution import Part, parts
from benchmarks.gpus import DATA_SHEETS, DataSheet, data_sheet_of
from benchmarks.recording import Record
from benchmarks.results import Report, Result, by_case

# An assumption: about what a kernel of no work takes when launches are replayed from a CUDA graph.
LAUNCH_MICROSECONDS = 2.0
_counted = lru_cache(maxsize=16)(parts)


@dataclass(frozen=True)
class Bound:
    """Modelled microseconds of some launches.

    Attributes:
        memory: to move the operands.
        products: to compute the products.
        floor: the longer of both, launch by launch.
        launches: their fixed cost.
    """

    memory: float
    products: float
    floor: float
    launches: float

    @property
    def total(self) -> float:
        """Floor and fixed cost."""
        return self.floor + self.launches

    @property
    def binding(self) -> str:
        """What takes longest."""
        times = {"memory": self.memory, "products": self.products, "launches": self.launches}
        return max(times, key=lambda name: times[name])


def bound(records: Iterable[Record], sheet: DataSheet, precision: str, launch_microseconds: float) -> Bound:
    """Return the modelled time of launches one after the other.

    Args:
        records: the launches.
        sheet: of the GPU.
        precision: of the products.
        launch_microseconds: fixed cost of a launch.
    """
    memory = products = floor = launches = 0.0
    for record in records:
        moving = (record.read + record.written) / sheet.gigabytes_per_second / 1e3
        computing = record.flop / sheet.teraflops[precision] / 1e6
        memory, products, floor = memory + moving, products + computing, floor + max(moving, computing)
        launches += record.launches * launch_microseconds
    return Bound(memory, products, floor, launches)


@dataclass(frozen=True)
class Row:
    """A layer, or the rest of a block: modelled, and measured milliseconds where there are any."""

    part: Part
    fast: Bound
    plain: Bound
    measured_fast: float | None = None
    measured_plain: float | None = None


@dataclass(frozen=True)
class Model:
    """What is modelled.

    Attributes:
        sheet: of the GPU.
        training: a training step, or an evaluation.
        precision: see ``benchmarks.precision``.
        batch: images.
        size: their height and width in pixels.
        launch_microseconds: fixed cost of a launch.
    """

    sheet: DataSheet
    training: bool = True
    precision: str = "bf16"
    batch: int = 8
    size: int = 256
    launch_microseconds: float = LAUNCH_MICROSECONDS

    def rows(self, measured: Report | None = None) -> list[Row]:
        """Return the parts of the network in order, with what was measured of them on this GPU."""
        times = {} if measured is None else self._times(measured, "layer")
        return [
            Row(part, self._bound(fast), self._bound(plain), *times.get(str(part).partition(" ")[0], (None, None)))
            for part, (fast, plain) in self._parts().items()
        ]

    def total(self, measured: Report | None = None) -> Row:
        """Return the whole step."""
        columns = zip(*self._parts().values(), strict=True)
        fast, plain = (self._bound(record for records in column for record in records) for column in columns)
        times = {} if measured is None else self._times(measured, "network")
        return Row(Part("whole step", "whole step"), fast, plain, *times.get("network", (None, None)))

    def _parts(self) -> dict[Part, tuple[list[Record], list[Record]]]:
        # float16 has the sizes of bfloat16, TF32 those of float32.
        dtype = torch.bfloat16 if self.precision in ("bf16", "fp16") else torch.float32
        return _counted(self.training, dtype, self.batch, self.size)

    def _bound(self, records: Iterable[Record]) -> Bound:
        return bound(records, self.sheet, self.precision, self.launch_microseconds)

    def _times(self, measured: Report, group: str) -> dict[str, tuple[float | None, float | None]]:
        """Return measured milliseconds of the fast and the plain one by the first word of the subject."""
        if data_sheet_of(measured.machine["name"]) != self.sheet:
            return {}
        mode = "training" if self.training else "evaluation"
        wanted = (group, mode, self.precision, self.batch, self.size)
        found = {}
        for case, results in by_case(measured.measured()).items():
            if (case.group, case.mode, case.precision, case.batch, case.size) == wanted:
                fast, plain = _milliseconds(results, "FastResUNetPP"), _milliseconds(results, "eager")
                found[case.subject.partition(" ")[0]] = fast, plain
        return found


def _milliseconds(results: dict[str, Result], provider: str) -> float | None:
    """Return the median of a provider, replayed from a CUDA graph where that was measured."""
    result = results.get(f"{provider} + CUDA graph") or results.get(provider)
    return None if result is None else 1e3 * result.spread.median


def describe(model: Model) -> str:
    """Return what is modelled and what is assumed, as text."""
    sheet = model.sheet
    step = "training step" if model.training else "evaluation"
    return (
        f"MODELLED, not measured: {step} of {model.batch}x3x{model.size}x{model.size}, {model.precision}, on an "
        f"{sheet.name}: {sheet.gigabytes_per_second:g} GB/s, {sheet.teraflops[model.precision]:g} TFLOP/s "
        f"({sheet.source}), {model.launch_microseconds:g} us a launch (an assumption); operands move once a launch"
    )


def _line(row: Row, has_measurements: bool) -> str:
    ratio = row.plain.total / row.fast.total if row.fast.total else float("nan")
    text = (
        f"{row.part!s:34s}{row.fast.floor:10.1f}{row.fast.total:10.1f}  {row.fast.binding:9s}"
        f"{row.plain.floor:10.1f}{row.plain.total:10.1f}{ratio:8.2f}"
    )
    if has_measurements:
        pair = (row.measured_fast, row.measured_plain)
        text += "".join(f"{'':>12s}" if value is None else f"{1e3 * value:12.1f}" for value in pair)
    return text


def main() -> None:
    """Print a line for every layer and the whole step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=list(DATA_SHEETS), default="h100", help="(default: h100)")
    parser.add_argument("--evaluation", action="store_true", help="in place of a training step")
    parser.add_argument("--precision", choices=("bf16", "fp16", "tf32", "fp32"), default="bf16", help="(default: bf16)")
    parser.add_argument("--batch-size", type=int, default=8, help="(default: 8)")
    parser.add_argument("--size", type=int, default=256, help="image height and width in pixels (default: 256)")
    parser.add_argument("--launch-us", type=float, default=LAUNCH_MICROSECONDS, help="of a launch (default: 2)")
    parser.add_argument("--measured", type=Path, help="results of benchmarks.run on this GPU to show beside")
    options = parser.parse_args()
    sheet = DATA_SHEETS[options.gpu]
    measured = Report.read(options.measured) if options.measured else None
    if measured is not None and data_sheet_of(measured.machine["name"]) != sheet:
        sys.exit(f"{options.measured} was measured on {measured.machine['name']}, not on an {sheet.name}")
    model = Model(sheet, not options.evaluation, options.precision, options.batch_size, options.size, options.launch_us)
    print(describe(model))
    heading = f"{'microseconds of the batch':34s}{'floor':>10s}{'+launch':>10s}  {'binding':9s}"
    heading += f"{'plain':>10s}{'+launch':>10s}{'ratio':>8s}"
    print(heading + (f"{'measured':>12s}{'plain':>12s}" if measured else ""))
    for row in [*model.rows(measured), model.total(measured)]:
        print(_line(row, measured is not None))


if __name__ == "__main__":
    main()
