"""Train FastResUNetPP and the plain network from the same weights on the same batches and compare their losses.

Run: python -m benchmarks.loss_agreement --data FOLDER
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP
from fastresunet.training.compare import Batch, loss_curves
from fastresunet.training.image_store import ImageStore
from fastresunet.training.split import select_pairs
from fastresunet.training.transforms import to_network_input


def read_batches(data: Path, size: int, batch_size: int, steps: int) -> list[Batch]:
    """Return the first training batches of a data folder, in the order of the names and without augmentation."""
    pairs = select_pairs(data, "train").pairs
    store = ImageStore(pairs, size)
    batches = []
    for step in range(steps):
        images, masks = store.read([pairs[(step * batch_size + i) % len(pairs)] for i in range(batch_size)])
        batches.append((to_network_input(images), masks.float()))
    return batches


def main() -> None:
    """Print both losses of every step and their largest relative difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--size", type=int, default=128, help="image height and width in pixels (default: 128)")
    parser.add_argument("--batch-size", type=int, default=8, help="images a step (default: 8)")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps (default: 20)")
    parser.add_argument(
        "--lr", type=float, default=3e-3, help="learning rate of SGD with momentum 0.9 (default: 0.003)"
    )
    options = parser.parse_args()
    batches = read_batches(options.data, options.size, options.batch_size, options.steps)
    torch.manual_seed(0)
    reference, fast = ResUNetPP(), FastResUNetPP()
    fast.load_state_dict(reference.state_dict())
    other = copy.deepcopy(reference)
    # The same network in another memory layout differs by rounding alone: how far losses drift apart for no reason.
    other_batches = [(images.contiguous(memory_format=torch.channels_last), masks) for images, masks in batches]
    losses, expected = loss_curves([fast, reference], batches, options.lr)
    (drift,) = loss_curves([other], other_batches, options.lr)
    print("step  FastResUNetPP  ResUNetPP  ResUNetPP, channels-last image")
    for step, values in enumerate(zip(losses, expected, drift, strict=True), start=1):
        print(f"{step:4d}  {values[0]:13.6f}  {values[1]:9.6f}  {values[2]:9.6f}")
    for name, curve in (("FastResUNetPP", losses), ("ResUNetPP, channels-last image", drift)):
        difference = max(abs(a / b - 1) for a, b in zip(curve, expected, strict=True))
        print(f"largest relative difference of {name} from ResUNetPP: {difference:.1e}")


if __name__ == "__main__":
    main()
