"""Train for a minute, show the result, and compare the fast network with the reference."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path

import rich
import torch
from rich.table import Table

from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP
from fastresunet.training.compare import (
    Batch,
    StepTimes,
    activation_bytes,
    gradient_difference,
    output_difference,
    step_times,
)
from fastresunet.training.console import say
from fastresunet.training.data import Pair
from fastresunet.training.evaluate import evaluate_model
from fastresunet.training.evaluation import Evaluation
from fastresunet.training.fit import train
from fastresunet.training.image_store import ImageStore
from fastresunet.training.inference import choose_device
from fastresunet.training.overlay import write_sheet
from fastresunet.training.pictures import sheet_row
from fastresunet.training.recipe import Recipe
from fastresunet.training.split import split_pairs
from fastresunet.training.synthetic import write_polyp_folder
from fastresunet.training.trained_network import load_network
from fastresunet.training.transforms import to_network_input

SIZE = 128
BATCH_SIZE = 8
LEARNING_RATE = 3e-3
SYNTHETIC_IMAGES = 160
SHEET_ROWS = 6


@dataclass(frozen=True)
class Comparison:
    """FastResUNetPP against the reference with the same weights, in training mode.

    Args:
        output_difference: largest difference of the outputs, relative.
        gradient_difference: largest difference of the gradients, relative.
        step_times: seconds of a training step of both.
        activation_bytes: bytes kept for the backward pass by the network.
        reference_activation_bytes: bytes kept for the backward pass by the reference.
    """

    output_difference: float
    gradient_difference: float
    step_times: StepTimes
    activation_bytes: int
    reference_activation_bytes: int


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration measured and wrote.

    Args:
        folder: folder of this run, with ``overlays.png`` and the training.
        dice: per-image mean Dice on the validation images.
        constant_dice: the same for the better constant prediction.
        comparison: the network against the reference.
    """

    folder: Path
    dice: float
    constant_dice: float
    comparison: Comparison


def demo(data: Path | None, out: Path, seconds: float = 60.0) -> DemoResult:
    """Train at 128x128 for about ``seconds``, write an overlay sheet and print a table against the reference.

    Args:
        data: folder with ``images`` and ``masks``; None draws synthetic polyps.
        out: folder to write; each run gets its own ``run-1``, ``run-2``, ... in it.
        seconds: time to train.

    Returns:
        The measured numbers and where the files are.

    Raises:
        UserError: the data or ``out`` cannot be used.
    """
    folder = next(out / f"run-{number}" for number in itertools.count(1) if not (out / f"run-{number}").exists())
    if data is None:
        data = folder / "data"
        say(f"Drawing {SYNTHETIC_IMAGES} synthetic images in {data}")
        write_polyp_folder(data, SYNTHETIC_IMAGES, SIZE)
    train_pairs, val_pairs = split_pairs(data)

    say("Comparing FastResUNetPP with the reference")
    start = time.perf_counter()
    batch = _read_batch(train_pairs)
    read_seconds = time.perf_counter() - start
    comparison = compare(batch, repeats=5 if seconds >= 30 else 1)

    step_seconds = comparison.step_times.model + read_seconds
    epoch_seconds = math.ceil((len(train_pairs) + len(val_pairs) / 2) / BATCH_SIZE) * step_seconds
    epochs = max(1, int(seconds / epoch_seconds))
    result = train(
        data,
        folder,
        # A training this short has no time for clipped steps, and nothing to average.
        Recipe(
            size=SIZE,
            batch_size=BATCH_SIZE,
            epochs=epochs,
            lr=LEARNING_RATE,
            augmentation="light",
            clip_norm=0.0,
            average=0.0,
        ),
        # The estimate is for an idle machine; a busy one ends the last epoch early.
        max_seconds=1.5 * seconds,
    )

    model = load_network(result.best_checkpoint, "auto").model
    evaluation = evaluate_model(model, val_pairs, SIZE)
    dice, constant_dice = evaluation.image_means["dice"], evaluation.best_constant_dice
    _write_overlays(folder / "overlays.png", model, val_pairs, evaluation)
    rich.print(_table(comparison, next(model.parameters()).device))
    say(f"Validation Dice {dice:.3f} (best constant prediction: {constant_dice:.3f})")
    say(f"Look at {folder / 'overlays.png'}; the trained model is {result.best_checkpoint}")
    return DemoResult(folder, dice, constant_dice, comparison)


def compare(batch: Batch, repeats: int) -> Comparison:
    """Compare FastResUNetPP with the reference on CUDA where there is one, else on the CPU.

    Args:
        batch: images (N, 3, H, W) and masks (N, 1, H, W), float32.
        repeats: timed training steps of each.
    """
    device = choose_device("auto")
    torch.manual_seed(0)
    reference = ResUNetPP().to(device)
    model = FastResUNetPP().to(device)
    model.load_state_dict(reference.state_dict())
    images, masks = batch[0].to(device), batch[1].to(device)
    return Comparison(
        output_difference(model, reference, images),
        gradient_difference(model, reference, (images, masks)),
        step_times(model, reference, (images, masks), repeats),
        activation_bytes(model, images),
        activation_bytes(reference, images),
    )


def _read_batch(pairs: list[Pair]) -> Batch:
    images, masks = ImageStore(pairs, SIZE).read(pairs[:BATCH_SIZE])
    return to_network_input(images), masks.float()


def _write_overlays(path: Path, model: torch.nn.Module, pairs: list[Pair], evaluation: Evaluation) -> None:
    dice = evaluation.image_scores["dice"]
    rows = [sheet_row(model, pair, SIZE, f"Dice {dice[index]:.3f}") for index, pair in enumerate(pairs[:SHEET_ROWS])]
    write_sheet(path, rows, f"Validation images, mean Dice {dice.mean().item():.3f}")


def _table(comparison: Comparison, device: torch.device) -> Table:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    times = comparison.step_times
    memory, reference_memory = comparison.activation_bytes, comparison.reference_activation_bytes
    table = Table(title=f"FastResUNetPP against ResUNetPP, same weights, {BATCH_SIZE}x3x{SIZE}x{SIZE} float32, {name}")
    for heading in ("", "FastResUNetPP", "ResUNetPP", "relative"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("training step, median", f"{times.model:.4f} s", f"{times.reference:.4f} s", f"{times.ratio:.2f}")
    table.add_row(
        "activation memory",
        f"{memory / 2**20:.1f} MiB",
        f"{reference_memory / 2**20:.1f} MiB",
        f"{memory / reference_memory:.2f}",
    )
    table.add_row("largest output difference, float32", "", "", f"{comparison.output_difference:.1e}")
    table.add_row("largest gradient difference, float32", "", "", f"{comparison.gradient_difference:.1e}")
    return table
