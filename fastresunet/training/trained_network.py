"""Networks of checkpoints, with the size and the format of the images they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from fastresunet.cuda_graphs import GraphedInference
from fastresunet.inference import fold
from fastresunet.model import FastResUNetPP
from fastresunet.training.checkpoints import load_model, read_checkpoint
from fastresunet.training.data_format import DataFormat, MaskClass, numbered_classes, parse_classes
from fastresunet.training.errors import UserError
from fastresunet.training.inference import DEFAULT_SIZE, Device, choose_device
from fastresunet.training.run import recorded_run


class TrainedNetwork(NamedTuple):
    """A network with what it was trained on.

    Attributes:
        model: in evaluation mode on its device.
        size: height and width of the images it was trained at, in pixels (256 if unknown).
        form: of its images and masks.
    """

    model: nn.Module
    size: int
    form: DataFormat


def load_predictor(checkpoint: Path, device: Device, cuda_graphs: bool = True) -> TrainedNetwork:
    """Load a network for prediction: folded.

    Args:
        checkpoint: file of this package or of a published model.
        device: ``"auto"`` takes CUDA where there is one.
        cuda_graphs: on CUDA, capture it in a CUDA graph.

    Raises:
        UserError: the checkpoint cannot be read, or takes neither RGB nor grey.
    """
    model, size, form = _load(checkpoint, device)
    folded = fold(model)
    return TrainedNetwork(GraphedInference(folded) if cuda_graphs else folded, size, form)


def load_network(checkpoint: Path, device: Device) -> TrainedNetwork:
    """Load a network.

    Args:
        checkpoint: file of this package or of a published model.
        device: ``"auto"`` takes CUDA where there is one.

    Raises:
        UserError: the checkpoint cannot be read, or takes neither RGB nor grey.
    """
    return TrainedNetwork(*_load(checkpoint, device))


def check_fits(form: DataFormat, trained: DataFormat, checkpoint: Path) -> None:
    """Look whether files of a format can be scored with a network.

    Args:
        form: of the files.
        trained: of the network.
        checkpoint: named in errors.

    Raises:
        UserError: they differ in colours, or in the number or order of classes.
    """
    if form.channels != trained.channels:
        raise UserError(
            f"checkpoint {checkpoint} has in_channels={trained.channels}, but images are to be read with "
            f"{form.channels}; expected the same, 3 for RGB and 1 for grey."
        )
    if form.outputs != trained.outputs:
        raise UserError(
            f"checkpoint {checkpoint} has num_classes={trained.outputs}, but masks are to be read with "
            f"{form.outputs}; expected the same, 1 for a foreground alone. See --classes."
        )
    given, known = ([each.name for each in classes] for classes in (form.classes, trained.classes))
    if given != known and sorted(given) == sorted(known):
        raise UserError(
            f"checkpoint {checkpoint} has its classes in another order: {', '.join(known)}; got {', '.join(given)}. "
            "Give --classes in the order of the training."
        )


def format_of(checkpoint: Path, options: Mapping[str, Any]) -> DataFormat:
    """Return the format of a checkpoint's training, with changes.

    Args:
        checkpoint: file of this package or of a published model.
        options: by name, among them ``classes``, ``foreground`` and ``mask_suffix`` where they were given, see
            ``Recipe``.

    Raises:
        UserError: the checkpoint cannot be read, or an option is wrong.
    """
    _, _, form = _load(checkpoint, "cpu")
    if "classes" in options:
        form = replace(form, classes=parse_classes(options["classes"]), foreground=())
    if "foreground" in options:
        form = replace(form, classes=(), foreground=tuple(options["foreground"]))
    return replace(form, mask_suffix=options.get("mask_suffix", form.mask_suffix))


def _load(checkpoint: Path, device: Device) -> tuple[FastResUNetPP, int, DataFormat]:
    model, size, classes = load_model(checkpoint)
    if model.in_channels not in (1, 3):
        raise UserError(f"checkpoint {checkpoint} has in_channels={model.in_channels}; expected 3 (RGB) or 1 (grey).")
    run = recorded_run(read_checkpoint(checkpoint), checkpoint) if checkpoint.suffix == ".ckpt" else None
    if run is not None:
        form = run.recipe.form
    elif model.num_classes == 1:
        form = DataFormat(model.in_channels)
    else:
        form = DataFormat(model.in_channels, _named(classes, model.num_classes))
    return model.to(choose_device(device)), size or DEFAULT_SIZE, form


def _named(classes: tuple[str, ...], count: int) -> tuple[MaskClass, ...]:
    """Return the classes that a file names, or numbered ones where it says something else under that name."""
    try:
        named = parse_classes(classes)
    except UserError:
        named = ()
    return named if len(named) == count else parse_classes(numbered_classes(count))
