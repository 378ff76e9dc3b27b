"""Train the network on a folder of images and masks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, Timer
from lightning.pytorch.loggers import TensorBoardLogger

from fastresunet.training.averaging import MovingAverage
from fastresunet.training.callbacks import BestCheckpoint, EpochTable, StopOnDivergence, StopOnInterrupt
from fastresunet.training.checkpoints import AtomicCheckpointIO, load_model, read_checkpoint
from fastresunet.training.console import say
from fastresunet.training.data import Pair, find_pairs
from fastresunet.training.errors import UserError
from fastresunet.training.files import check_writable
from fastresunet.training.graphed_module import GraphedSegmentationModule
from fastresunet.training.image_store import ImageStore
from fastresunet.training.lightning_module import SegmentationModule
from fastresunet.training.loaders import SegmentationData
from fastresunet.training.pictures import CurvesPicture, TensorBoardImages, write_validation_sheet
from fastresunet.training.progress import EpochProgress
from fastresunet.training.recipe import (
    PUBLISHED_FILTERS,
    Machine,
    Recipe,
    resolve_device,
    resolve_precision,
)
from fastresunet.training.run import Run, made_now, recorded_run
from fastresunet.training.split import Names, recorded_pairs, split_pairs
from fastresunet.training.trained_network import load_predictor

LIGHTNING_PRECISION: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
# These may change when a training goes on; they change where it ends, not what it has done.
MAY_CHANGE = ("epochs", "patience")


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves behind.

    Args:
        best_checkpoint: checkpoint of the epoch with the best monitored score.
        last_checkpoint: checkpoint of the last epoch, to resume from.
        table: CSV file with one row an epoch.
        best_score: the best monitored score, by default the highest per-image mean Dice on the validation images, at
            the training size.
        constant_dice: mean Dice on validation images of the best constant prediction, all pixels of one class.
    """

    best_checkpoint: Path
    last_checkpoint: Path
    table: Path
    best_score: float
    constant_dice: float


def train(
    data: Path,
    out: Path,
    recipe: Recipe | None = None,
    machine: Machine | None = None,
    *,
    names: Names | None = None,
    cache: Path | None = None,
    skip_damaged: bool = False,
    max_seconds: float | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train FastResUNetPP.

    ``out`` receives ``best.ckpt``, ``last.ckpt``, ``run.yaml``, ``epochs.csv``, ``curves.png``, ``validation.png`` and
    TensorBoard logs.

    Args:
        data: folder with ``images`` and ``masks``.
        out: folder to write.
        recipe: what shapes the result; None takes the defaults.
        machine: what computes; None takes the defaults.
        names: of the images to train and to validate on; None splits them, see ``split_pairs``. A training that is
            resumed keeps its own.
        cache: folder for the images at training size, see ``ImageStore``.
        skip_damaged: leave out pairs that cannot be used, and say so, instead of stopping.
        max_seconds: stop after so many seconds of training; None for no limit.
        resume: continue from ``last.ckpt`` in ``out``, with the same recipe; epochs and patience may change.

    Returns:
        Paths and the best validation score.

    Raises:
        UserError: an argument out of range, bad data, an ``out`` with another training, a damaged checkpoint, a full
            disk, or a loss that is not finite.
        TrainingInterruptedError: the user pressed Ctrl-C; the state is saved.
    """
    recipe, machine = recipe or Recipe(), machine or Machine()
    recipe.check()
    device = resolve_device(machine.device, recipe.devices)
    recipe, state = _with_start(replace(recipe, precision=resolve_precision(recipe.precision, device)), resume)
    last = out / "last.ckpt"
    if resume:
        earlier = _resumable(last, recipe)
        if names is not None and not all({*old} <= {*new} for old, new in zip(earlier.names, names, strict=True)):
            raise UserError(
                f"{last} was trained with another split than the one given; leave out --config and --lists."
            )
        names, source = earlier.names, str(last)
    elif last.exists():
        raise UserError(f"{out} already holds a training. Add --resume to continue it, or choose another --out.")
    else:
        source = "the split of --lists or --config"
    train_pairs, val_pairs = _pairs(data, recipe, names, source)
    check_writable(out)
    store = ImageStore(sorted([*train_pairs, *val_pairs], key=lambda pair: pair.name), recipe.size, cache, skip_damaged)
    if store.fits_memory:
        store.fill()
        if not resume:
            train_pairs, val_pairs = _usable(store, train_pairs, val_pairs)
    elif not store.keeps:
        say("The images do not fit in memory and are decoded in every epoch; --cache DIR keeps them on disk instead.")

    parts = (tuple(pair.name for pair in pairs) for pairs in (train_pairs, val_pairs))
    run = Run(recipe, Names(*parts), made_now(data, device))
    seed_everything(recipe.seed, verbose=False)
    graphed = machine.cuda_graphs and takes_graphs(device, recipe.devices, machine.compile_model)
    module = GraphedSegmentationModule(run, state) if graphed else SegmentationModule(run, state, machine.compile_model)
    batches = SegmentationData(store, train_pairs, val_pairs, recipe)
    stopper, best_saver = StopOnInterrupt(last), BestCheckpoint(out, recipe.monitor)
    trainer = Trainer(
        accelerator=device,
        devices=recipe.devices,
        precision=LIGHTNING_PRECISION[recipe.precision],
        max_epochs=recipe.epochs,
        accumulate_grad_batches=recipe.accumulate,
        # Graphs clip by themselves.
        gradient_clip_val=None if graphed else recipe.clip_norm or None,
        logger=TensorBoardLogger(out, name="tensorboard", version="", default_hp_metric=False),
        callbacks=_callbacks(out, recipe, stopper, best_saver, max_seconds),
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    if trainer.is_global_zero:
        run.write(out / "run.yaml")
        say(_heading(run, device, graphed))
    with _intended(), stopper.listening():
        trainer.fit(module, datamodule=batches, ckpt_path=last if resume else None)
    best, score = out / "best.ckpt", best_saver.best_model_score
    constant_dice = float("nan")
    if trainer.is_global_zero and best.exists():
        trained = load_predictor(best, device, cuda_graphs=False)
        evaluation = write_validation_sheet(out / "validation.png", trained.model, val_pairs, recipe.size)
        constant_dice = evaluation.best_constant_dice
    best_score = float("nan") if score is None else float(score)
    return TrainingResult(best, last, out / "epochs.csv", best_score, constant_dice)


def takes_graphs(device: Literal["cpu", "cuda"], devices: int, compile_model: bool) -> bool:
    """Return whether a training can use CUDA graphs; if not so on CUDA, a printed line says why."""
    if device == "cuda" and (devices > 1 or compile_model):
        say(f"No CUDA graphs: {'--devices is above 1' if devices > 1 else '--compile takes their place'}.")
    return device == "cuda" and devices == 1 and not compile_model


def _with_start(recipe: Recipe, resume: bool) -> tuple[Recipe, dict[str, Any] | None]:
    """Return the recipe with its filters, and the parameters to start from."""
    if recipe.checkpoint is None:
        return replace(recipe, filters=recipe.filters or PUBLISHED_FILTERS), None
    model, _, _ = load_model(Path(recipe.checkpoint))
    if model.in_channels != recipe.in_channels:
        raise UserError(
            f"checkpoint {recipe.checkpoint} has in_channels={model.in_channels}, images are to be read with "
            f"{recipe.in_channels}; give --in-channels {model.in_channels}: files of both kinds are read as either."
        )
    if recipe.filters not in (None, model.filters):
        raise UserError(
            f"checkpoint {recipe.checkpoint} has filters {' '.join(map(str, model.filters))}, "
            f"not {' '.join(map(str, recipe.filters or ()))}; leave out --filters to take its own."
        )
    state = model.state_dict()
    if model.num_classes != recipe.form.outputs:
        if not resume:
            say(
                f"{recipe.checkpoint} has num_classes={model.num_classes}, not {recipe.form.outputs}: "
                "the last layer starts at 0."
            )
        # At 0: what a random layer makes of trained features is far off, and the first steps would spoil them.
        for name in ("output.weight", "output.bias"):
            state[name] = torch.zeros(recipe.form.outputs, *state[name].shape[1:])
    return replace(recipe, filters=model.filters), state


def _resumable(last: Path, recipe: Recipe) -> Run:
    """Return the record of a training that the recipe can continue."""
    if not last.exists():
        raise UserError(f"there is nothing to resume in {last.parent}; drop --resume to start a training there.")
    checkpoint = read_checkpoint(last)
    earlier = recorded_run(checkpoint, last)
    try:
        finished = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except (KeyError, TypeError):
        finished = None
    if earlier is None or finished is None:
        raise UserError(f"{last} is no checkpoint of a training of this package; it cannot be resumed.")
    now = recipe.to_values()
    for name, before in earlier.recipe.to_values().items():
        if now[name] == before:
            continue
        option = f"--{name.replace('_', '-')}"
        if name not in MAY_CHANGE:
            shown = [" ".join(map(str, x)) if isinstance(x, list) else x for x in (before, now[name])]
            raise UserError(
                f"{last} was trained with {option} {shown[0]}, now given: {shown[1]}. "
                "Resume with the same, or start another training in another --out."
            )
        say(f"{option}: {now[name]}, before: {before}")
    if finished >= recipe.epochs:
        raise UserError(
            f"epochs finished in {last}: {finished}, asked for: {recipe.epochs}. Give a larger --epochs to train on."
        )
    return earlier


def _pairs(data: Path, recipe: Recipe, names: Names | None, source: str) -> tuple[list[Pair], list[Pair]]:
    if names is None:
        return split_pairs(data, recipe.val_fraction, recipe.form)
    pairs = recorded_pairs(data, names, source, recipe.form)
    new = len(find_pairs(data, recipe.form)) - len(names.train) - len(names.val)
    if new:
        say(f"{new} images of {data} are not among those of {source}, and not used.")
    return pairs


def _usable(store: ImageStore, train: list[Pair], val: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    train, val = store.usable(train), store.usable(val)
    if not train or not val:
        raise UserError(f"without damaged pairs there is none left to {'validate' if train else 'train'} on.")
    return train, val


def _callbacks(
    out: Path, recipe: Recipe, stopper: StopOnInterrupt, best_saver: BestCheckpoint, max_seconds: float | None
) -> list[Callback]:
    # After the best one, so that last.ckpt knows the best score when training resumes.
    last_saver = ModelCheckpoint(out, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    # First the average, so that a stop after a step saves it with that step.
    callbacks: list[Callback] = [MovingAverage(recipe.average)] if recipe.average else []
    callbacks += [
        StopOnDivergence(),
        stopper,
        LearningRateMonitor("step"),
        EpochTable(out / "epochs.csv"),
        CurvesPicture(out / "epochs.csv", out / "curves.png"),
        TensorBoardImages(recipe.form),
        best_saver,
        last_saver,
        EpochProgress(),
    ]
    if recipe.patience:
        mode = BestCheckpoint.MODES[recipe.monitor]
        callbacks.append(
            EarlyStopping(recipe.monitor, mode=mode, patience=recipe.patience, check_on_train_epoch_end=True)
        )
    if max_seconds is not None:
        callbacks.append(Timer(timedelta(seconds=max_seconds), verbose=False))
    return callbacks


def _heading(run: Run, device: str, graphed: bool) -> str:
    recipe, made = run.recipe, run.made_with
    batches = -(-len(run.names.train) // (recipe.batch_size * recipe.devices))
    where = f"{recipe.devices} x {made['device']}" if recipe.devices > 1 else str(made["device"])
    return (
        f"{len(run.names.train)} images to train on, {len(run.names.val)} to validate; "
        f"{batches} batches of {recipe.batch_size} an epoch, {recipe.size}x{recipe.size} pixels, "
        f"{recipe.precision} on {where}{', CUDA graphs' if graphed else ''}; {recipe.epochs} epochs"
    )


@contextmanager
def _intended() -> Iterator[None]:
    """Keep back warnings of what is meant here."""
    with warnings.catch_warnings():
        # To continue inside an epoch, in a folder with files that may have moved.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", "The dirpath has changed")
        yield
