"""Count kernel launches, bytes and floating-point operations of FastResUNetPP and of the plain network in eager mode.

Nothing is measured: networks run with tensors that have shapes and no memory. ``aten_traffic`` says
how ordinary operations are counted; a Triton kernel is one launch that reads or writes each of its tensors once, whole.

Run: python -m benchmarks.traffic [--layers] [--kernels]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from benchmarks.recording import Record, recording
from fastresunet.inference import fold
from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP


@dataclass(frozen=True)
class Goal:
    """At most so many launches, and gigabytes for each image of 256x256."""

    launches: int
    gigabytes: float


# For bfloat16 and 8 images of 256x256, by whether the network trains.
GOALS = {True: Goal(300, 0.55), False: Goal(110, 0.14)}
FOLDED, FOLDED_GOAL = "folded", Goal(45, 0.11)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "FastResUNetPP": partial(FastResUNetPP, backend="triton"),
    "ResUNetPP, eager": ResUNetPP,
}


@dataclass(frozen=True)
class Totals:
    """Sums over records, bytes and operations for each image.

    Attributes:
        launches: kernel launches, for all images together.
        read: gigabytes read.
        written: gigabytes written.
        gflop: 10^9 floating-point operations.
    """

    launches: int
    read: float
    written: float
    gflop: float

    @property
    def gigabytes(self) -> float:
        """Gigabytes read and written."""
        return self.read + self.written

    @classmethod
    def of(cls, records: Iterable[Record], images: int) -> Totals:
        """Sum ``records`` of a batch of ``images``."""
        columns = [(record.launches, record.read, record.written, record.flop) for record in records]
        launches, *others = (sum(column) for column in zip(*columns, strict=True)) if columns else (0, 0, 0, 0)
        return cls(launches, *(value / images / 1e9 for value in others))


def count(
    network: Callable[[], nn.Module], training: bool, dtype: torch.dtype, batch_size: int, size: int
) -> list[Record]:
    """Return the launches of one step of a network, in order.

    Args:
        network: makes it.
        training: forward pass, mean binary cross-entropy of the logits and backward pass; otherwise a forward pass in
            evaluation mode without gradients.
        dtype: float32, or bfloat16 for autocast to it.
        batch_size: images in the batch.
        size: their height and width in pixels.
    """
    with FakeTensorMode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        model = network().train(training)
        images, masks = torch.empty(batch_size, 3, size, size), torch.empty(batch_size, 1, size, size)
        with recording(model) as records, torch.set_grad_enabled(training):
            logits = model(images)
            if training:
                F.binary_cross_entropy_with_logits(logits.float(), masks).backward()
    return records


def count_folded(
    dtype: torch.dtype, batch_size: int, size: int, network: Callable[[], FastResUNetPP] = FastResUNetPP
) -> list[Record]:
    """Return the launches of a pass of the folded network, converted to ``dtype``, once its weights are packed."""
    # Folding looks at the weights' values, so those are no fake tensors.
    folded = fold(network(), backend="triton").to(dtype)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        images = torch.empty(batch_size, 3, size, size, dtype=dtype)
        with recording(folded):
            folded(images)  # packs
        with recording(folded) as records:
            folded(images)
    return records


def main() -> None:
    """Print the totals of training and evaluation, and with options where they come from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="image height and width in pixels (default: 256)")
    parser.add_argument("--batch-size", type=int, default=8, help="images a step (default: 8)")
    parser.add_argument("--layers", action="store_true", help="also print each block, and each layer of FastResUNetPP")
    parser.add_argument("--kernels", action="store_true", help="also print each kernel and operation")
    options = parser.parse_args()
    images, size = options.batch_size, options.size
    print(f"{images}x3x{size}x{size}, torch {torch.__version__}. Counted, not measured: each operand once a launch;")
    print("GB and GFLOP are for each image, launches for the batch.")
    for training, dtype in itertools.product((True, False), (torch.float32, torch.bfloat16)):
        records = {name: count(network, training, dtype, images, size) for name, network in NETWORKS.items()}
        if not training:
            records[FOLDED] = count_folded(dtype, images, size)
        precision = "bfloat16 autocast" if dtype == torch.bfloat16 else "float32"
        print(f"\n{'training step' if training else 'evaluation'}, {precision}")
        _print_totals(records, images)
        if dtype == torch.bfloat16 and (images, size) == (8, 256):
            goal = GOALS[training]
            print(f"{'goal, at most':38s}{goal.launches:8d}{goal.gigabytes:28.3f}")
            if not training:
                print(f"{'goal of the folded one':38s}{FOLDED_GOAL.launches:8d}{FOLDED_GOAL.gigabytes:28.3f}")
        if options.layers:
            for name, network_records in records.items():
                _print_table(f"{name}, by block", network_records, images, lambda record: record.block)
            fast = records["FastResUNetPP"]
            _print_table("FastResUNetPP, by layer", fast, images, lambda record: record.layer or "between layers")
        if options.kernels:
            for name, network_records in records.items():
                _print_table(f"{name}, by kernel", network_records, images, lambda record: record.kernel, ordered=True)


def _print_totals(records: dict[str, list[Record]], images: int) -> None:
    print(f"{'':38s}launches   GB read  GB written        GB      GFLOP")
    for name, network_records in records.items():
        total = Totals.of(network_records, images)
        print(
            f"{name:38s}{total.launches:8d}{total.read:10.3f}{total.written:12.3f}{total.gigabytes:10.3f}"
            f"{total.gflop:11.2f}"
        )


def _print_table(
    title: str, records: Sequence[Record], images: int, key: Callable[[Record], str], ordered: bool = False
) -> None:
    """Print launches, megabytes and GFLOP of forward and backward pass for each value of ``key``.

    Args:
        title: first cell.
        records: what is summed.
        images: images in the batch.
        key: what a record is summed under.
        ordered: largest traffic first, otherwise as in the network.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    rows = list(groups.items())
    if ordered:
        rows.sort(key=lambda row: -Totals.of(row[1], images).gigabytes)
    print(f"\n  {title:38s}forward: launches        MB    GFLOP  backward: launches        MB    GFLOP")
    for name, group in rows:
        line = f"  {name:38s}"
        for backward in (False, True):
            total = Totals.of((record for record in group if record.backward == backward), images)
            line += f"{total.launches:{19 if backward else 17}d}{1e3 * total.gigabytes:10.2f}{total.gflop:9.3f}"
        print(line)


if __name__ == "__main__":
    main()
