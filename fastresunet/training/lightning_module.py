"""Optimisation and validation of the network, and its data, as Lightning modules."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from fastresunet.model import FastResUNetPP
from fastresunet.training.data import Pair, SeededSampler, SegmentationDataset
from fastresunet.training.losses import bce_dice_loss
from fastresunet.training.metrics import ImageCounts, image_means

WEIGHT_DECAY = 1e-4
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Settings:
    """What a resumed training must share with its checkpoint, which keeps it.

    Args:
        filters: channels of the network, see ``FastResUNetPP``.
        size: height and width of the training images in pixels; prediction uses it too.
        batch_size: images per step and device.
        devices: number of devices.
        lr: first learning rate; it falls to 0 along half a cosine.
        seed: seed of the initial parameters, the order and the augmentation.
        images: number of training images.
    """

    filters: list[int]
    size: int
    batch_size: int
    devices: int
    lr: float
    seed: int
    images: int


class SegmentationModule(LightningModule):
    """FastResUNetPP with its loss, AdamW, a cosine learning rate and the validation scores.

    Args:
        settings: channels, learning rate, and what else the checkpoint keeps.
        compile_model: compile the network with ``torch.compile``.
    """

    def __init__(self, settings: Settings, compile_model: bool = False) -> None:
        super().__init__()
        # Plain values only, so that the checkpoint loads with weights_only=True.
        self.save_hyperparameters(asdict(settings))
        self.lr = settings.lr
        self.model = FastResUNetPP(filters=settings.filters)
        if compile_model:
            self.model.compile()
        self.image_counts = ImageCounts()

    def training_step(self, batch: Batch) -> Tensor:
        """Return the loss of a batch of images (N, 3, H, W) and masks (N, 1, H, W)."""
        images, masks = batch
        loss = self.training_loss(images, masks)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        return loss

    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the loss to train on."""
        return bce_dice_loss(self.model(images), masks)

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits (N, 1, H, W) for validation."""
        logits: Tensor = self.model(images)
        return logits

    def validation_step(self, batch: Batch) -> None:
        """Add a batch to the validation loss and to the confusion counts."""
        images, masks = batch
        logits = self.logits(images)
        loss = bce_dice_loss(logits, masks)
        self.log("val_loss", loss, batch_size=len(images), sync_dist=True)
        self.image_counts.update(logits[:, 0] > 0, masks[:, 0] > 0)

    def on_validation_epoch_end(self) -> None:
        """Log the per-image means of Dice and IoU."""
        means = image_means(self.image_counts.compute())
        self.log_dict({"val_dice": means["dice"], "val_iou": means["iou"]})
        self.image_counts.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW and a learning rate that falls to 0 over all planned steps."""
        optimizer = self.make_optimizer()
        # Not trainer.estimated_stepping_batches: it would build the loaders before a resumed epoch is known.
        steps = len(self.trainer.datamodule.train_dataloader()) * (self.trainer.max_epochs or 1)  # type: ignore[attr-defined]
        # A function of the planned steps, not a stored state: resuming with more epochs stretches the curve.
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=WEIGHT_DECAY)


class SegmentationData(LightningDataModule):
    """The loaders of one training, the same after resuming as without interruption.

    Args:
        train: training pairs.
        val: validation pairs.
        size: height and width of the network's images in pixels.
        batch_size: images per step and process.
        augment: change training images at random.
        workers: processes that read images; 0 reads in the training process.
        seed: seed of order and augmentation.
    """

    def __init__(
        self,
        train: Sequence[Pair],
        val: Sequence[Pair],
        size: int,
        batch_size: int,
        augment: bool,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train_set = SegmentationDataset(train, size, augment)
        self.val_set = SegmentationDataset(val, size)
        self.batch_size, self.workers, self.seed = batch_size, workers, seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training loader; after resuming inside an epoch it begins where that epoch stopped."""
        loader = self._loader(self.train_set, shuffle=True)
        assert self.trainer is not None
        assert isinstance(loader.sampler, SeededSampler)
        epoch: int = self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready % len(loader)
        loader.sampler.resume(epoch, batches * self.batch_size)
        return loader

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation loader."""
        return self._loader(self.val_set, shuffle=False)

    def _loader(self, dataset: SegmentationDataset, shuffle: bool) -> DataLoader[Batch]:
        assert self.trainer is not None
        sampler = SeededSampler(dataset, self.seed, shuffle, self.trainer.world_size, self.trainer.global_rank)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=_ignore_interrupt,
            pin_memory=torch.cuda.is_available(),
        )


def _ignore_interrupt(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; readers must live on until the trainer has stopped.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
