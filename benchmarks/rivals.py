"""Other networks for the same task, as users would take them in ResUNet++'s place: timed beside it, never compared."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.networks import ModuleSubject
from fastresunet.ops import Backend


@dataclass(frozen=True)
class Rival:
    """A network that turns (N, 3, H, W) images into (N, 1, H, W) logits.

    Attributes:
        package: that it comes with.
        make: returns it, with random parameters.
    """

    package: str
    make: Callable[[], nn.Module]

    @property
    def missing(self) -> str:
        """The package if it is not installed, otherwise ""."""
        return "" if importlib.util.find_spec(self.package) else f"{self.package} not installed"


@dataclass(frozen=True)
class RivalSubject(ModuleSubject):
    """A rival in the network's place, on the same images.

    Attributes:
        rival: what computes.
    """

    rival: Rival | None = None

    def module(self, fast: bool, backend: Backend = "auto") -> nn.Module:
        """Return the rival with parameters from a fixed seed."""
        assert self.rival is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.rival.make()


def _unet() -> nn.Module:
    models = importlib.import_module("segmentation_models_pytorch")
    unet: nn.Module = models.Unet("resnet34", encoder_weights=None, in_channels=3, classes=1)
    return unet


RIVALS = {"smp.Unet resnet34": Rival("segmentation_models_pytorch", _unet)}
