"""Time the data path of a training, the network, and both together, in images a second.

The images of a folder are read for the first time, then served from the store and augmented in batches; the network
makes training steps on one batch; then it makes them on the batches as they come, as in a training. With --pairs,
folders of so many pairs are made of links to the images and opened: how long to the first batch, how much memory.

Run: python -m benchmarks.data_path --data Kvasir-SEG [--pairs 1000 10000 100000] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import name_of
from fastresunet import FastResUNetPP, GraphedTrainingStep
from fastresunet.training.augmentation import STRONG
from fastresunet.training.data import find_pairs
from fastresunet.training.image_store import ImageStore
from fastresunet.training.loaders import BatchLoader, SeededSampler
from fastresunet.training.losses import bce_dice_loss
from fastresunet.training.split import split_pairs

LARGE_BATCHES = 20


def prepared(loader: BatchLoader, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as the network takes them, without end."""
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            on_device = batch._replace(
                images=batch.images.to(device, non_blocking=True),
                masks=batch.masks.to(device, non_blocking=True),
                draws=batch.draws.to(device, non_blocking=True),
            )
            yield on_device.prepare(STRONG)


def images_a_second(batches: Iterator[tuple[Tensor, Tensor]], seconds: float, step: Any = None) -> float:
    """Return how many images pass in a time, each batch through a step if there is one."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        images, masks = next(batches)
        if step is not None:
            step(images, masks)
        count += len(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def time_training(data: Path, size: int, batch_size: int, seconds: float) -> dict[str, float]:
    """Return images a second of the data path, of the network, and of both together."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = find_pairs(data)
    store = ImageStore(pairs, size)
    start = time.perf_counter()
    store.fill()
    found = {"first reading": len(pairs) / (time.perf_counter() - start)}
    loader = BatchLoader(store, pairs, SeededSampler(pairs, 0, shuffle=True), batch_size)
    batches = prepared(loader, device)
    images_a_second(batches, seconds / 4)
    stored = ((batch.images, batch.masks) for _ in itertools.count() for batch in loader)
    found["from the store"] = images_a_second(stored, seconds)
    found["data alone"] = images_a_second(batches, seconds)
    model = FastResUNetPP().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=device.type == "cuda")
    autocast = torch.bfloat16 if device.type == "cuda" else None
    step = GraphedTrainingStep(model, bce_dice_loss, optimizer, autocast=autocast)
    same = itertools.repeat(next(batches))
    images_a_second(same, seconds / 4, step)
    # In turns, as machines change their speed.
    alone, together = [], []
    for _ in range(3):
        alone.append(images_a_second(same, seconds, step))
        together.append(images_a_second(batches, seconds, step))
    found["network alone"], found["together"] = sorted(alone)[1], sorted(together)[1]
    found["together / slower one"] = found["together"] / min(found["data alone"], found["network alone"])
    return found


def link_pairs(data: Path, count: int, folder: Path) -> None:
    """Make a folder of so many pairs of links to the images of another one."""
    pairs = find_pairs(data)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number, pair in zip(range(count), itertools.cycle(pairs), strict=False):
        for source in (pair.image, pair.mask):
            (folder / source.parent.name / f"{number:06d}{source.suffix}").symlink_to(source.resolve())


def time_opening(data: Path, count: int, size: int, batch_size: int) -> dict[str, float]:
    """Return what it takes to begin a training on a folder of so many pairs, with a cache on disk."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        link_pairs(data, count, folder)
        before = memory()
        start = time.perf_counter()
        train, val = split_pairs(folder)
        store = ImageStore([*train, *val], size, Path(place) / "cache")
        batches = iter(BatchLoader(store, train, SeededSampler(train, 0, shuffle=True), batch_size))
        next(batches)
        to_first = time.perf_counter() - start
        start = time.perf_counter()
        images = sum(len(batch.images) for batch in itertools.islice(batches, LARGE_BATCHES))
        rate = images / (time.perf_counter() - start)
        more = memory() - before
    return {"seconds to the first batch": to_first, "images/s, first reading": rate, "MB more": more}


def memory() -> float:
    """Return the megabytes that belong to this process alone; pages of the cache belong to the system."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (default: 256)")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a batch (default: 16)")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (default: 10)")
    parser.add_argument("--pairs", type=int, nargs="*", default=[], help="open folders of so many pairs")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    machine = name_of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(f"{machine}; {options.batch_size}x3x{options.size}x{options.size}")
    found: dict[str, Any] = {"machine": machine}
    found["training"] = time_training(options.data, options.size, options.batch_size, options.seconds)
    for name, value in found["training"].items():
        print(f"{name:25}{value:10.2f}")
    found["opening"] = {}
    for count in options.pairs:
        found["opening"][count] = time_opening(options.data, count, options.size, options.batch_size)
        print(f"{count} pairs: " + ", ".join(f"{name} {value:.1f}" for name, value in found["opening"][count].items()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
