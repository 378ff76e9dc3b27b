"""Drawn images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastresunet.training.data import find_pairs
from fastresunet.training.image_store import ImageStore
from fastresunet.training.images import read_image
from fastresunet.training.masks import read_mask
from fastresunet.training.synthetic import draw_polyp_image, write_polyp_folder


@pytest.mark.parametrize("size", [32, 77])
def test_every_image_has_polyp_and_background(size: int) -> None:
    for seed in range(30):
        image, mask = draw_polyp_image(size, seed)
        assert (image.shape, image.dtype) == ((3, size, size), torch.uint8)
        assert (mask.shape, mask.dtype) == ((size, size), torch.bool)
        assert 0.005 < mask.float().mean() < 0.6


def test_seed_decides_the_picture(tmp_path: Path) -> None:
    write_polyp_folder(tmp_path, count=2, size=32, seed=0)
    pairs = find_pairs(tmp_path)
    ImageStore(pairs, size=32).fill()
    image, mask = draw_polyp_image(32, seed=1)
    assert torch.equal(read_image(pairs[1].image), image)
    assert torch.equal(read_mask(pairs[1].mask), mask)
    assert not torch.equal(read_image(pairs[0].image), image)
