"""Run the network's kernels as compiled code on the CPU and show which part of a GPU binds each of them: a model.

For every kernel the instructions, bytes and shared-memory accesses that its PTX executes are counted, and divided by
what the GPU's pipes can take (``speed_of_light`` of the ``gpu_emulator`` package). The slowest pipe is a lower bound of
the kernel's time; nothing here was measured on a GPU. The goal is a slowest pipe within 1.5 of the larger of DRAM and
tensor cores. Waves that the last programs leave partly empty are left out: they depend on the batch.

Run: python -m benchmarks.pipes [--batch-size 1] [--size 256] [--gpu a100] [--all]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections import Counter
from typing import Any

import torch

from benchmarks.recording import Record
from benchmarks.traffic import NETWORKS, count

PIPES = ("dram", "tensor", "alu", "shared", "l1", "issue")
GOAL = 1.5
ARCHITECTURES = {"a100": 80, "rtx3090": 86, "rtx4090": 89}


def main() -> None:
    """Print a line for every kernel beyond the goal, and the sums of a training step and an evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1, help="images (default: 1; minutes for each)")
    parser.add_argument("--size", type=int, default=256, help="image height and width in pixels (default: 256)")
    parser.add_argument("--gpu", default="a100", choices=list(ARCHITECTURES), help="(default: a100)")
    parser.add_argument("--all", action="store_true", help="also show the kernels within the goal")
    options = parser.parse_args()
    if importlib.util.find_spec("gpu_emulator") is None:
        sys.exit("benchmarks.pipes executes PTX with the package gpu_emulator, which is not installed here")
    emulator = importlib.import_module("gpu_emulator")
    emulator.activate(arch=ARCHITECTURES[options.gpu])
    print(f"{options.batch_size} x 3 x {options.size} x {options.size}, bfloat16, {options.gpu}; modelled us an image")
    torch.manual_seed(0)
    image = torch.randn(options.batch_size, 3, options.size, options.size)
    network = NETWORKS["FastResUNetPP"]
    for training in (True, False):
        model = network().train(training)
        with emulator.profile() as launches, torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
            loss = model(image).float().square().mean()
            if training:
                loss.backward()
        # The same launches in the same order, by the layers that they belong to.
        counted = count(network, training, torch.bfloat16, options.batch_size, options.size)
        records = [record for record in counted if record.kernel.endswith("_kernel")]
        report("training step" if training else "evaluation", launches, records, options)


def report(name: str, launches: list[Any], records: list[Record], options: argparse.Namespace) -> None:
    """Print the kernels of one pass; equal launches (kernel, layer, grid, counts) in one line."""
    estimate = importlib.import_module("gpu_emulator.speed_of_light").estimate
    lines: Counter[tuple[str, str, tuple[float, ...]]] = Counter()
    floor = bound = 0.0
    for launch, record in zip(launches, records, strict=True):
        assert launch.kernel == record.kernel
        result = estimate(launch, options.gpu)
        times = [
            result.pipes[pipe] / (1 if pipe == "dram" else result.balance) * 1e6 / options.batch_size for pipe in PIPES
        ]
        floor += max(times[:2])
        bound += max(times)
        grid = "x".join(map(str, launch.grid))
        where = f"{record.layer or record.block:26s} {grid:>12s} {launch.registers:4d}"
        lines[launch.kernel, where, tuple(round(time, 2) for time in times)] += 1
    print(f"\n{name}: {len(launches)} Triton launches, floor (DRAM or tensor) {floor:.0f}, slowest pipes {bound:.0f}")
    columns = " ".join(f"{pipe:>7s}" for pipe in PIPES)
    print(f"{'kernel':28s} {'layer':26s} {'grid':>12s} regs times {columns}  ratio")
    for (kernel, where, pipes), repeats in sorted(lines.items(), key=lambda line: -max(line[0][2])):
        ratio = max(pipes) / max(*pipes[:2], 1e-9)
        if options.all or (ratio > GOAL and max(pipes) > 0.1):
            cells = " ".join(f"{time:7.2f}" for time in pipes)
            print(f"{kernel:28s} {where} {repeats:5d} {cells}  {ratio:5.2f}")


if __name__ == "__main__":
    main()
