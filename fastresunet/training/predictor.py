"""How images reach the network in prediction: options, and batches of stretched images or of tiles."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from fastresunet.training.console import say
from fastresunet.training.inference import DEFAULT_THRESHOLD, Device, predict_probabilities
from fastresunet.training.read_ahead import batches
from fastresunet.training.sliding_window import predict_tiled
from fastresunet.training.symmetries import SymmetryEnsemble
from fastresunet.training.trained_network import load_predictor

Key = TypeVar("Key")


@dataclass(frozen=True)
class PredictionOptions:
    """What a prediction computes and writes.

    Args:
        size: height and width for the network, in pixels; None takes that of the training (256 if unknown).
        tile: cover images by tiles of this height and width, in pixels, at their own resolution, instead of stretching
            them to ``size``; see ``predict_tiled``.
        overlap: share of a tile's side that it has in common with the next one, 0 to below 1.
        augment: average the probabilities over 8 flips and quarter turns; see ``SymmetryEnsemble``.
        batch_size: images, frames or tiles that the network computes at once; None takes 8 on a GPU and 1 on the CPU,
            where more are slower.
        threshold: a pixel is foreground where its probability is above this; of several classes the likeliest is taken.
        overlays: also write the image with its mask drawn on it.
        probabilities: also write 16-bit grey PNGs, 65535 for probability 1; of several classes one each.
        skip_existing: leave out images and videos whose result is already there.
        device: ``"auto"`` takes CUDA where there is one.
        cuda_graphs: on CUDA, capture the network in a CUDA graph, see ``GraphedInference``.
    """

    size: int | None = None
    tile: int | None = None
    overlap: float = 0.5
    augment: bool = False
    batch_size: int | None = None
    threshold: float = DEFAULT_THRESHOLD
    overlays: bool = False
    probabilities: bool = False
    skip_existing: bool = False
    device: Device = "auto"
    cuda_graphs: bool = True


class Predictor:
    """A checkpoint's network with the way images reach it.

    Args:
        checkpoint: file of this package or of the published model.
        options: size or tile, augmentation, batch size and device.

    Attributes:
        batch_size: images, frames or tiles that the network computes at once.
        form: of images and masks.
        images_at_once: images that are held for a batch: those worth tiling are large, and come one by one.

    Raises:
        UserError: the checkpoint or the device cannot be used.
    """

    def __init__(self, checkpoint: Path, options: PredictionOptions) -> None:
        trained = load_predictor(checkpoint, options.device, options.cuda_graphs)
        self.model, self.form = trained.model, trained.form
        if self.form.classes and options.threshold != DEFAULT_THRESHOLD:
            say("The threshold has no part in the masks of several classes.")
        self.batch_size = options.batch_size or (8 if next(self.model.parameters()).is_cuda else 1)
        if options.augment:
            self.model = SymmetryEnsemble(self.model)
        self.size = options.size or trained.size
        self.tile, self.overlap = options.tile, options.overlap
        self.images_at_once = self.batch_size if self.tile is None else 1

    def predict(self, images: Iterable[tuple[Key, Tensor]]) -> Generator[tuple[Key, Tensor, Tensor], None, None]:
        """Yield each image with its probabilities, in order.

        Args:
            images: uint8 tensors (channels, H, W) on the CPU, of any sizes, each with a key that tells it from others.

        Returns:
            Keys, images, and float32 tensors (K, H, W) in 0..1 on the CPU, of the foreground alone or of all classes.

        Raises:
            FloatingPointError: the network gives values that are not finite.
        """
        for batch in batches(images, self.images_at_once):
            for (key, image), probability in zip(batch, self._probabilities([x for _, x in batch]), strict=True):
                yield key, image, probability

    def _probabilities(self, images: list[Tensor]) -> list[Tensor]:
        if self.tile is None:
            return predict_probabilities(self.model, images, self.size)
        tile, overlap, batch_size = self.tile, self.overlap, self.batch_size
        return [predict_tiled(self.model, x, tile, overlap=overlap, batch_size=batch_size) for x in images]
