"""Weights that come with the package: they load, and know a polyp from none; others are refused with all names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastresunet import FastResUNetPP, pretrained


def test_the_weights_are_those_of_a_trained_network() -> None:
    model = FastResUNetPP.from_pretrained("kvasir-seg")
    fresh = FastResUNetPP().state_dict()
    state = model.state_dict()
    assert not model.training
    assert {key: x.shape for key, x in state.items()} == {key: x.shape for key, x in fresh.items()}
    assert all(x.dtype == fresh[key].dtype and x.isfinite().all() for key, x in state.items())


def test_a_polyp_is_found() -> None:
    """A bright bump on a darker, reddish wall, as no training image has it."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 256), indexing="ij")
    bump = ((x - 0.1) ** 2 + (y + 0.1) ** 2) / 0.12
    shade = 0.45 + 0.4 * (1 - bump).clamp_min(0) - 0.12 * (x**2 + y**2)
    image = torch.stack([shade * 1.25, shade * 0.75, shade * 0.6]).clamp(0, 1)[None]
    with torch.no_grad():
        found = FastResUNetPP.from_pretrained("kvasir-seg")(image)[0, 0] > 0
    truth = bump < 1
    dice = 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())
    assert dice > 0.5


def test_every_file_has_a_card() -> None:
    assert pretrained.names() == ["kvasir-seg"]
    assert "no medical device" in (pretrained.WEIGHTS / "kvasir-seg.md").read_text()


def test_other_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no pretrained weights called 'imagenet'; there are: kvasir-seg"):
        FastResUNetPP.from_pretrained("imagenet")


def test_numbers_beyond_float16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="w has numbers that are not finite in float16"):
        pretrained.save_pretrained(tmp_path / "x.safetensors", {}, {"w": torch.tensor([1e6])}, 256)
