"""Train the network on a folder of images and masks."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import TensorBoardLogger

from fastresunet.reference import check_network_arguments
from fastresunet.training.callbacks import BestCheckpoint, EpochTable, StopOnDivergence, StopOnInterrupt
from fastresunet.training.checkpoints import AtomicCheckpointIO, read_checkpoint
from fastresunet.training.console import say
from fastresunet.training.data import check_pairs, split_pairs
from fastresunet.training.errors import UserError
from fastresunet.training.files import check_writable
from fastresunet.training.graphed_module import GraphedSegmentationModule
from fastresunet.training.lightning_module import SegmentationData, SegmentationModule, Settings
from fastresunet.training.progress import EpochProgress

Precision = Literal["32", "bf16", "16"]
LIGHTNING_PRECISION: dict[Precision, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves behind.

    Args:
        best_checkpoint: checkpoint of the epoch with the highest validation Dice.
        last_checkpoint: checkpoint of the last epoch, to resume from.
        table: CSV file with one row an epoch.
        best_dice: highest per-image mean Dice on the validation images, at the training size.
    """

    best_checkpoint: Path
    last_checkpoint: Path
    table: Path
    best_dice: float


def train(
    data: Path,
    out: Path,
    *,
    size: int = 256,
    batch_size: int = 8,
    epochs: int = 100,
    learning_rate: float = 1e-3,
    filters: Sequence[int] = (16, 32, 64, 128, 256),
    precision: Precision = "32",
    augment: bool = True,
    compile_model: bool = False,
    cuda_graphs: bool = True,
    patience: int = 20,
    max_seconds: float | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    devices: int = 1,
    workers: int | None = None,
    seed: int = 0,
    resume: bool = False,
) -> TrainingResult:
    """Train FastResUNetPP; ``out`` receives ``best.ckpt``, ``last.ckpt``, ``epochs.csv`` and TensorBoard logs.

    Args:
        data: folder with ``images`` and ``masks``, see ``split_pairs``.
        out: folder to write.
        size: height and width to which images are stretched, in pixels, at least 32.
        batch_size: images per step and device.
        epochs: passes over the training images, those before resuming included.
        learning_rate: first learning rate of AdamW; it falls to 0 along half a cosine.
        filters: channels of the network, see ``FastResUNetPP``.
        precision: ``"32"``, or ``"bf16"`` or ``"16"`` for automatic mixed precision.
        augment: flip, rotate, shift, zoom and recolour training images at random.
        compile_model: compile the network with ``torch.compile``; then there are no CUDA graphs.
        cuda_graphs: on a single CUDA device, capture steps in CUDA graphs, see ``GraphedTrainingStep``.
        patience: stop when the validation Dice has not risen for so many epochs; 0 never stops early.
        max_seconds: stop after so many seconds of training; None for no limit.
        device: ``"auto"`` takes CUDA where there is one.
        devices: number of devices, one process each.
        workers: processes per device that read images; None takes one per core, at most 8, or 0 on the CPU.
        seed: seed of the initial parameters, the order and the augmentation.
        resume: continue from ``last.ckpt`` in ``out``, with the same images, size, batch size, number of devices,
            learning rate, filters and seed.

    Returns:
        Paths and the best validation score.

    Raises:
        UserError: an argument out of range, bad data, an ``out`` with another training, a damaged checkpoint, a full
            disk, or a loss that is not finite.
        TrainingInterruptedError: the user pressed Ctrl-C; the state is saved.
    """
    device = _check_arguments(size, batch_size, epochs, learning_rate, filters, precision, patience, device, devices)
    last, table = out / "last.ckpt", out / "epochs.csv"
    train_pairs, val_pairs = split_pairs(data)
    settings = Settings(list(filters), size, batch_size, devices, learning_rate, seed, len(train_pairs))
    if resume:
        _check_resumable(last, settings, epochs)
    elif last.exists():
        raise UserError(f"{out} already holds a training. Add --resume to continue it, or choose another --out.")
    check_writable(out)
    check_pairs([*train_pairs, *val_pairs])

    seed_everything(seed, verbose=False)
    graphed = cuda_graphs and takes_graphs(device, devices, compile_model)
    module = GraphedSegmentationModule(settings) if graphed else SegmentationModule(settings, compile_model)
    if workers is None:
        # On the CPU, reading processes would only take cores from the training.
        workers = min(8, (os.cpu_count() or 1) // devices) if device == "cuda" else 0
    loaders = SegmentationData(train_pairs, val_pairs, size, batch_size, augment, workers, seed)
    stopper, best_saver = StopOnInterrupt(last), BestCheckpoint(out)
    # After the best one, so that last.ckpt knows the best score when training resumes.
    last_saver = ModelCheckpoint(out, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks = [StopOnDivergence(), stopper, EpochTable(table), best_saver, last_saver, EpochProgress()]
    if patience:
        callbacks.append(EarlyStopping("val_dice", mode="max", patience=patience, check_on_train_epoch_end=True))
    if max_seconds is not None:
        callbacks.append(Timer(timedelta(seconds=max_seconds), verbose=False))
    trainer = Trainer(
        accelerator=device,
        devices=devices,
        precision=LIGHTNING_PRECISION[precision],
        max_epochs=epochs,
        logger=TensorBoardLogger(out, name="tensorboard", version="", default_hp_metric=False),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    with warnings.catch_warnings(), stopper.listening():
        # They warn of what is meant here: to continue inside an epoch, in a folder with files that may have moved.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", "The dirpath has changed")
        try:
            trainer.fit(module, datamodule=loaders, ckpt_path=last if resume else None)
        except UserError as error:
            # A reading process hands over the text of its traceback, which ends with the message.
            error.args = (str(error).rpartition("UserError: ")[2].strip(),)
            raise
    score = best_saver.best_model_score
    return TrainingResult(out / "best.ckpt", last, table, float("nan") if score is None else float(score))


def takes_graphs(device: Literal["cpu", "cuda"], devices: int, compile_model: bool) -> bool:
    """Return whether a training can use CUDA graphs; if not so on CUDA, a printed line says why."""
    if device == "cuda" and (devices > 1 or compile_model):
        say(f"No CUDA graphs: {'--devices is above 1' if devices > 1 else '--compile takes their place'}.")
    return device == "cuda" and devices == 1 and not compile_model


def _check_arguments(
    size: int,
    batch_size: int,
    epochs: int,
    learning_rate: float,
    filters: Sequence[int],
    precision: Precision,
    patience: int,
    device: Literal["auto", "cpu", "cuda"],
    devices: int,
) -> Literal["cpu", "cuda"]:
    for name, value, least in (
        ("size", size, 32),
        ("batch_size", batch_size, 1),
        ("epochs", epochs, 1),
        ("patience", patience, 0),
        ("devices", devices, 1),
    ):
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    if not 0 < learning_rate < math.inf:
        raise UserError(f"learning_rate must be positive and finite, got {learning_rate}")
    try:
        check_network_arguments(3, 1, tuple(filters), se_reduction=8, aspp_rates=(1, 6, 12, 18))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    if precision not in LIGHTNING_PRECISION:
        raise UserError(f"precision must be one of {', '.join(LIGHTNING_PRECISION)}, got {precision!r}")
    cuda_devices = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if cuda_devices else "cpu"
    if device == "cuda" and devices > cuda_devices:
        raise UserError(
            f"CUDA devices asked for: {devices}, available to PyTorch: {cuda_devices}. "
            "Choose a smaller --devices or --device cpu."
        )
    if device == "cpu" and precision == "16":
        raise UserError("precision 16 (float16) trains on CUDA devices only; use bf16 or 32 on the CPU.")
    return device


def _check_resumable(last: Path, settings: Settings, epochs: int) -> None:
    if not last.exists():
        raise UserError(f"there is nothing to resume in {last.parent}; drop --resume to start a training there.")
    checkpoint = read_checkpoint(last)
    try:
        saved = {name: checkpoint["hyper_parameters"][name] for name in asdict(settings)}
        finished = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{last} is no checkpoint of a training of this package; it cannot be resumed.") from error
    for name, value in asdict(settings).items():
        if saved[name] != value:
            what = "training images" if name == "images" else f"--{name.replace('_', '-')}"
            given, before = (" ".join(map(str, x)) if name == "filters" else x for x in (value, saved[name]))
            raise UserError(
                f"{last} was trained with {what} {before}, now given: {given}. "
                "Resume with the same, or start another training in another --out."
            )
    if finished >= epochs:
        raise UserError(
            f"epochs finished in {last}: {finished}, asked for: {epochs}. Give a larger --epochs to train on."
        )
