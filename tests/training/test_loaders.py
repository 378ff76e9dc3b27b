"""Order, augmentation and batches of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fastresunet.training.augmentation import DRAWS, STRONG
from fastresunet.training.data import find_pairs
from fastresunet.training.errors import UserError
from fastresunet.training.image_store import ImageStore
from fastresunet.training.loaders import BatchLoader, SeededSampler, StoredBatch


def loader(data: Path, seed: int = 3, epoch: int = 0) -> BatchLoader:
    pairs = find_pairs(data)
    sampler = SeededSampler(pairs, seed, shuffle=True)
    sampler.set_epoch(epoch)
    return BatchLoader(ImageStore(pairs, 32), pairs, sampler, batch_size=5)


def test_batches_have_the_size_and_range_of_the_network(shared_data: Path) -> None:
    batches = [batch.prepare(STRONG) for batch in loader(shared_data)]
    assert [len(images) for images, _ in batches] == [5, 5, 2]
    assert len(loader(shared_data)) == 3
    for images, masks in batches:
        assert (images.shape[1:], images.dtype) == ((3, 32, 32), torch.float32)
        assert (masks.shape[1:], masks.dtype) == ((1, 32, 32), torch.float32)
        assert 0 <= images.min() < images.max() <= 1
        assert set(masks.unique().tolist()) <= {0.0, 1.0}


def equal(first: StoredBatch, second: StoredBatch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(first[:3], second[:3], strict=True)) and first[3] == second[3]


def test_batches_depend_on_seed_and_epoch_only(shared_data: Path) -> None:
    state = torch.get_rng_state()
    first = [*loader(shared_data)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert all(equal(x, y) for x, y in zip(first, loader(shared_data), strict=True))
    for other in (loader(shared_data, seed=4), loader(shared_data, epoch=1)):
        batch = next(iter(other))
        assert not torch.equal(batch.images, first[0].images)
        assert not torch.equal(batch.draws, first[0].draws)
        assert batch.noise_seed != first[0].noise_seed


def test_draws_are_uniform(shared_data: Path) -> None:
    draws = torch.cat([batch.draws for epoch in range(20) for batch in loader(shared_data, epoch=epoch)])
    assert draws.shape == (240, DRAWS)
    assert 0 <= draws.min() < draws.max() < 1
    assert draws.mean(0).sub(0.5).abs().max() < 0.1


def test_validation_images_are_left_as_they_are(shared_data: Path) -> None:
    batch = next(iter(loader(shared_data)))
    images, masks = batch.prepare(None)
    assert torch.equal(images, batch.images.float() / 255)
    assert torch.equal(masks, batch.masks.float())


def test_sampler_draws_anew_each_epoch_and_resumes_inside_one(shared_data: Path) -> None:
    pairs = find_pairs(shared_data)
    sampler = SeededSampler(pairs, seed=3, shuffle=True)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert sorted(key.position for key in epochs[1]) == list(range(12))
    assert {key.seed for key in epochs[0]}.isdisjoint({key.seed for key in epochs[1]})
    resumed = SeededSampler(pairs, seed=3, shuffle=True)
    resumed.resume(epoch=1, position=5)
    assert list(resumed) == epochs[1][5:]
    resumed.set_epoch(0)
    assert list(resumed) == epochs[0]


def test_sampler_shares_the_samples_among_processes(shared_data: Path) -> None:
    pairs = find_pairs(shared_data)
    shares = [
        {key.position for key in SeededSampler(pairs, seed=0, shuffle=True, processes=2, rank=rank)}
        for rank in range(2)
    ]
    assert shares[0].isdisjoint(shares[1])
    assert shares[0] | shares[1] == set(range(12))


def test_a_damaged_file_stops_the_batches_and_is_named(data: Path) -> None:
    (data / "images/0002.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"^cannot read image .*0002\.png"):
        list(loader(data))


def test_empty_masks_are_found_at_the_end_of_the_first_epoch(data: Path) -> None:
    for mask in (data / "masks").iterdir():
        Image.new("L", (48, 48)).save(mask)
    batches = iter(loader(data))
    assert len(next(batches).images) == 5
    next(batches)
    with pytest.raises(UserError, match="all 6 masks are empty"):
        next(batches)
