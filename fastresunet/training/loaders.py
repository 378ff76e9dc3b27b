"""Batches for the training, the same after resuming as without interruption."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DistributedSampler

from fastresunet.training.augmentation import AUGMENTATIONS, DRAWS, Augmentation, augment
from fastresunet.training.data import Pair
from fastresunet.training.image_store import ImageStore
from fastresunet.training.read_ahead import read_ahead
from fastresunet.training.recipe import Recipe
from fastresunet.training.transforms import to_network_input

BATCHES_AHEAD = 4


class Key(NamedTuple):
    """What the sampler asks for: which pair, and the seed of its augmentation."""

    position: int
    seed: tuple[int, int, int]


class StoredBatch(NamedTuple):
    """A batch as it lies in the store.

    Attributes:
        images: uint8 (N, channels, size, size).
        masks: class of each pixel, uint8 (N, 1, size, size).
        draws: random numbers for the augmentation, float32 (N, ``DRAWS``).
        noise_seed: of the pixels' noise.
        classes: of the masks, with the background.
    """

    images: Tensor
    masks: Tensor
    draws: Tensor
    noise_seed: int
    classes: int = 2

    def prepare(self, augmentation: Augmentation | None) -> tuple[Tensor, Tensor]:
        """Return what the network takes: float32 images (N, channels, size, size) in 0..1, masks (N, 1, size, size).

        Args:
            augmentation: how far images are changed, on the device where the batch is; None leaves them.
        """
        if augmentation is None:
            return to_network_input(self.images), self.masks.float()
        noise = torch.Generator(self.images.device).manual_seed(self.noise_seed)
        return augment(self.images, self.masks, self.draws, augmentation, noise, self.classes)


class SeededSampler(DistributedSampler[Key]):
    """Order and augmentation that depend on nothing but the seed and the epoch.

    An interrupted training therefore continues with exactly the samples it would have seen.

    Args:
        pairs: pairs to sample.
        seed: seed of the shuffle and of the augmentation.
        shuffle: draw a new order for every epoch.
        processes: number of training processes; each gets its share of the samples.
        rank: index of this process.
    """

    def __init__(self, pairs: Sequence[Pair], seed: int, shuffle: bool, processes: int = 1, rank: int = 0) -> None:
        # The base class asks for no more than a length.
        super().__init__(pairs, num_replicas=processes, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.resumed_epoch, self.resumed_position = 0, 0

    def resume(self, epoch: int, position: int) -> None:
        """Leave out the first ``position`` samples of ``epoch``, which an interrupted training has seen."""
        self.resumed_epoch, self.resumed_position = epoch, position
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys of the current epoch."""
        # The base class is typed by what it yields, but it yields plain positions.
        positions = cast(Iterator[int], super().__iter__())
        first = self.resumed_position if self.epoch == self.resumed_epoch else 0
        for position in itertools.islice(positions, first, None):
            yield Key(position, (self.seed, self.epoch, position))


class BatchLoader:
    """Batches of a part of the data, read ahead by threads.

    Once the store holds the pairs, a batch takes a copy; processes would only take memory.

    Args:
        store: holds the images.
        pairs: the part.
        sampler: order of the pairs; Lightning tells it the epoch.
        batch_size: images in a batch.
    """

    batch_sampler = None  # Lightning asks every loader that has a sampler.

    def __init__(self, store: ImageStore, pairs: Sequence[Pair], sampler: SeededSampler, batch_size: int) -> None:
        self.store, self.pairs, self.sampler, self.batch_size = store, pairs, sampler, batch_size

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[StoredBatch]:
        """Yield the batches of the sampler's epoch."""
        keys = iter(self.sampler)
        batches = iter(lambda: [*itertools.islice(keys, self.batch_size)], [])
        yield from read_ahead(batches, self._read, BATCHES_AHEAD)
        self.store.check_foreground()

    def _read(self, keys: Sequence[Key]) -> StoredBatch:
        images, masks = self.store.read([self.pairs[key.position] for key in keys])
        draws = np.stack([np.random.SeedSequence(key.seed).generate_state(DRAWS) for key in keys]) / np.float32(2**32)
        noise_seed = int(np.random.SeedSequence(keys[0].seed).generate_state(1, np.uint64)[0] >> 1)
        tensors = images, masks, torch.from_numpy(draws.astype(np.float32))
        if torch.cuda.is_available():
            # Copied to the GPU while the host goes on.
            tensors = images.pin_memory(), masks.pin_memory(), tensors[2].pin_memory()
        return StoredBatch(*tensors, noise_seed, max(2, self.pairs[0].form.outputs))


class SegmentationData(LightningDataModule):
    """The batches of one training.

    Args:
        store: holds all images.
        train: training pairs.
        val: validation pairs.
        recipe: batch size, augmentation and seed.
    """

    def __init__(self, store: ImageStore, train: Sequence[Pair], val: Sequence[Pair], recipe: Recipe) -> None:
        super().__init__()
        self.store, self.train_pairs, self.val_pairs, self.recipe = store, train, val, recipe

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches; after resuming inside an epoch they begin where that epoch stopped."""
        loader = self._loader(self.train_pairs, shuffle=True)
        assert self.trainer is not None
        epoch: int = self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready % len(loader)
        loader.sampler.resume(epoch, batches * self.recipe.batch_size)
        return loader

    def val_dataloader(self) -> BatchLoader:
        """Return the validation batches."""
        return self._loader(self.val_pairs, shuffle=False)

    def on_after_batch_transfer(self, batch: StoredBatch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Prepare a batch for the network, on its device; training images are augmented."""
        assert self.trainer is not None
        return batch.prepare(AUGMENTATIONS[self.recipe.augmentation] if self.trainer.training else None)

    def _loader(self, pairs: Sequence[Pair], shuffle: bool) -> BatchLoader:
        assert self.trainer is not None
        sampler = SeededSampler(pairs, self.recipe.seed, shuffle, self.trainer.world_size, self.trainer.global_rank)
        return BatchLoader(self.store, pairs, sampler, self.recipe.batch_size)
