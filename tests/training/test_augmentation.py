"""Random changes of batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fastresunet.training.augmentation import AUGMENTATIONS, DRAWS, LIGHT, STRONG, Augmentation, augment

STRENGTHS = {"light": LIGHT, "strong": STRONG}


def batch(count: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Bright rectangles on dark ground, their masks, and draws."""
    masks = torch.zeros(count, 1, 64, 64, dtype=torch.bool)
    masks[:, :, 20:44, 10:40] = True
    draws = torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(0))
    return (masks * 200 + 30).expand(-1, 3, -1, -1).to(torch.uint8), masks, draws


@pytest.mark.parametrize("augmentation", STRENGTHS.values(), ids=STRENGTHS)
def test_images_and_masks_are_changed_alike(augmentation: Augmentation) -> None:
    images, masks, draws = batch()
    changed, moved = augment(images, masks, draws, augmentation)
    assert (changed.shape, changed.dtype) == (images.shape, torch.float32)
    assert (moved.shape, moved.dtype) == (masks.shape, torch.float32)
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    bright = changed.mean(1, keepdim=True) > changed.mean((1, 2, 3), keepdim=True)
    assert (bright == moved.bool()).float().mean() > 0.97
    assert not torch.equal(moved[0], moved[1])


@pytest.mark.parametrize("augmentation", STRENGTHS.values(), ids=STRENGTHS)
def test_an_image_is_changed_alike_in_any_batch(augmentation: Augmentation) -> None:
    augmentation = replace(augmentation, noisy=0.0)  # noise is drawn for a batch
    images, masks, draws = batch()
    whole = augment(images, masks, draws, augmentation)
    alone = augment(images[3:4], masks[3:4], draws[3:4], augmentation)
    torch.testing.assert_close(alone[0], whole[0][3:4], rtol=1e-5, atol=1e-6)
    assert torch.equal(alone[1], whole[1][3:4])


def test_middle_draws_change_nothing() -> None:
    images, masks, draws = batch(1)
    changed, moved = augment(images, masks, torch.full_like(draws, 0.5), STRONG)
    torch.testing.assert_close(changed, images / 255, rtol=0, atol=1e-5)
    assert torch.equal(moved, masks.float())


def test_light_changes_less_than_strong() -> None:
    assert AUGMENTATIONS["none"] is None
    for name in vars(LIGHT):
        assert getattr(LIGHT, name) <= getattr(STRONG, name), name


def test_noise_follows_its_generator() -> None:
    images, masks, draws = batch()
    noisy = replace(STRONG, noisy=1.0)
    first, again, other = (
        augment(images, masks, draws, noisy, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
