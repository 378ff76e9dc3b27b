"""The recipe of a training: everything that shapes its result, and the machine it runs on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch

from fastresunet.reference import check_network_arguments
from fastresunet.training.data_format import DataFormat, parse_classes
from fastresunet.training.errors import UserError
from fastresunet.training.inference import Device
from fastresunet.training.split import VAL_FRACTION

Precision = Literal["32", "bf16", "16"]
PrecisionOption = Literal["auto", "32", "bf16", "16"]
Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant"]
Loss = Literal["bce-dice", "dice", "tversky", "focal"]
Strength = Literal["none", "light", "strong"]
Monitor = Literal["val_dice", "val_iou", "val_loss"]

PUBLISHED_FILTERS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Recipe:
    """What shapes the result of a training, besides its images.

    The defaults are the recipe of the weights that come with the package.

    Args:
        size: height and width to which images are stretched, in pixels, at least 32.
        in_channels: 3 reads images as RGB, 1 as grey.
        classes: of masks, the background first, such as ``"polyp 1"``, see ``MaskClass``; none where a pixel is
            foreground or not.
        foreground: grey levels of the foreground in masks without classes; none takes all above 127.
        mask_suffix: what the names of mask files have after those of their images.
        filters: channels of the network, see ``FastResUNetPP``; None takes those of ``checkpoint``, or the published.
        checkpoint: weights to start from: a file, or a name of weights that come with the package; None starts anew.
        epochs: passes over the training images.
        batch_size: images per step and device.
        accumulate: batches whose gradients are averaged for one step of the optimiser.
        optimizer: ``"adamw"``, or ``"sgd"`` with Nesterov momentum 0.9.
        lr: highest learning rate.
        weight_decay: of the convolutions' kernels; biases and normalisation have none.
        warm_up: share of all steps in which the learning rate rises from 0, 0 to below 1.
        schedule: after the warm-up, ``"cosine"`` falls to 0 along half a cosine, ``"constant"`` stays.
        clip_norm: gradients are scaled down to this norm together; 0 leaves them.
        loss: ``"bce-dice"``, ``"dice"``, ``"tversky"`` or ``"focal"``, see ``choose_loss``.
        augmentation: ``"none"``, ``"light"`` or ``"strong"``, see ``augmentation``.
        average: share that the moving average of the weights, which is what is validated and saved, keeps in every
            step; 0 averages nothing.
        precision: ``"32"``, or ``"bf16"`` or ``"16"`` for automatic mixed precision; ``"auto"`` takes bf16 on GPUs.
        monitor: score that chooses ``best.ckpt`` and stops early.
        patience: stop when ``monitor`` has not improved for so many epochs; 0 never stops early.
        val_fraction: share of the images that validate, where no lists say which.
        devices: number of devices, one process each.
        seed: of the initial parameters, the order and the augmentation.
    """

    size: int = 256
    in_channels: Literal[1, 3] = 3
    classes: tuple[str, ...] = ()
    foreground: tuple[int, ...] = ()
    mask_suffix: str = ""
    filters: tuple[int, ...] | None = None
    checkpoint: str | None = None
    epochs: int = 160
    batch_size: int = 16
    accumulate: int = 1
    optimizer: Optimizer = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.06
    schedule: Schedule = "cosine"
    clip_norm: float = 1.0
    loss: Loss = "bce-dice"
    augmentation: Strength = "strong"
    average: float = 0.999
    precision: PrecisionOption = "auto"
    monitor: Monitor = "val_dice"
    patience: int = 0
    val_fraction: float = VAL_FRACTION
    devices: int = 1
    seed: int = 0

    def check(self) -> None:
        """Look at every value.

        Raises:
            UserError: one has another type, or is out of range.
        """
        for name, requirement in _REQUIREMENTS.items():
            value = getattr(self, name)
            if not requirement.accepts(value):
                raise UserError(f"{name} must be {requirement.expected}, got {value!r}")
        if self.filters is not None:
            try:
                check_network_arguments(3, 1, tuple(self.filters), se_reduction=8, aspp_rates=(1, 6, 12, 18))
            except (TypeError, ValueError) as error:
                raise UserError(str(error)) from error
        if self.classes:
            parse_classes(self.classes)
            if self.foreground:
                raise UserError("foreground and classes both say what pixels of masks mean; give one of them")
        if self.checkpoint is not None and not isinstance(self.checkpoint, str):
            raise UserError(f"checkpoint must be a file or a name, got {self.checkpoint!r}")

    @property
    def form(self) -> DataFormat:
        """How images and masks are read."""
        classes = parse_classes(self.classes) if self.classes else ()
        return DataFormat(self.in_channels, classes, self.foreground, self.mask_suffix)

    def to_values(self) -> dict[str, Any]:
        """Return the fields as plain values, such as checkpoints and YAML hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_values(values: Mapping[str, Any], source: str) -> Recipe:
        """Return the recipe of such values; what is not given is as by default.

        Args:
            values: fields by name.
            source: named in errors, such as a file.

        Raises:
            UserError: a name is unknown, or a value wrong.
        """
        known = {field.name for field in fields(Recipe)}
        for name in values:
            if name not in known:
                raise UserError(f"{source}: a recipe has no {name!r}; it has {', '.join(sorted(known))}.")
        plain: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
        recipe = Recipe(**plain)
        try:
            recipe.check()
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        return recipe


@dataclass(frozen=True)
class Machine:
    """What a training runs on; its result is the same, but for rounding.

    Args:
        device: ``"auto"`` takes CUDA where there is one.
        compile_model: compile the network with ``torch.compile``; then there are no CUDA graphs.
        cuda_graphs: on a single CUDA device, capture steps in CUDA graphs, see ``GraphedTrainingStep``.
    """

    device: Device = "auto"
    compile_model: bool = False
    cuda_graphs: bool = True


def resolve_device(device: Device, devices: int) -> Literal["cpu", "cuda"]:
    """Return the kind of device to train on.

    Args:
        device: ``"auto"`` takes CUDA where there is one.
        devices: how many are needed.

    Raises:
        UserError: there are not so many.
    """
    available = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if available else "cpu"
    if device == "cuda" and devices > available:
        raise UserError(
            f"CUDA devices asked for: {devices}, available to PyTorch: {available}. "
            "Choose a smaller --devices or --device cpu."
        )
    return device


def resolve_precision(precision: PrecisionOption, device: Literal["cpu", "cuda"]) -> Precision:
    """Return the precision to train with.

    Args:
        precision: ``"auto"`` takes bf16 on GPUs that have it, and 32 elsewhere.
        device: to train on.

    Raises:
        UserError: the device has no such arithmetic.
    """
    if precision == "auto":
        return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if device == "cpu" and precision == "16":
        raise UserError("precision 16 (float16) trains on CUDA devices only; use bf16 or 32 on the CPU.")
    return precision


@dataclass(frozen=True)
class _Requirement:
    expected: str
    accepts: Callable[[Any], bool]


def _whole(least: int) -> _Requirement:
    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return _Requirement(f"a whole number, at least {least}", accepts)


def _tuple_of(kind: type, expected: str, accepts: Callable[[Any], bool]) -> _Requirement:
    def is_such_tuple(values: Any) -> bool:
        return isinstance(values, tuple) and all(type(value) is kind and accepts(value) for value in values)

    return _Requirement(expected, is_such_tuple)


def _number(expected: str, accepts: Callable[[float], bool]) -> _Requirement:
    def is_such_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and accepts(value)

    return _Requirement(expected, is_such_number)


def _one_of(choices: Any) -> _Requirement:
    return _Requirement(f"one of {', '.join(get_args(choices))}", lambda value: value in get_args(choices))


_REQUIREMENTS = {
    "size": _whole(32),
    "in_channels": _Requirement("3 (RGB) or 1 (grey)", lambda value: type(value) is int and value in (1, 3)),
    "classes": _tuple_of(str, "a list of texts such as 'polyp 1'", bool),
    "foreground": _tuple_of(int, "a list of grey levels, 0 to 65535", lambda level: 0 <= level < 1 << 16),
    "mask_suffix": _Requirement("a text", lambda value: isinstance(value, str)),
    "epochs": _whole(1),
    "batch_size": _whole(1),
    "accumulate": _whole(1),
    "optimizer": _one_of(Optimizer),
    "lr": _number("positive and finite", lambda x: 0 < x < math.inf),
    "weight_decay": _number("at least 0 and finite", lambda x: 0 <= x < math.inf),
    "warm_up": _number("at least 0 and below 1", lambda x: 0 <= x < 1),
    "schedule": _one_of(Schedule),
    "clip_norm": _number("at least 0 and finite", lambda x: 0 <= x < math.inf),
    "loss": _one_of(Loss),
    "augmentation": _one_of(Strength),
    "average": _number("at least 0 and below 1", lambda x: 0 <= x < 1),
    "precision": _one_of(PrecisionOption),
    "monitor": _one_of(Monitor),
    "patience": _whole(0),
    "val_fraction": _number("above 0 and below 1", lambda x: 0 < x < 1),
    "devices": _whole(1),
    "seed": _whole(0),
}
