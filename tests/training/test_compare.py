"""FastResUNetPP against the reference in training, and the measuring functions themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP
from fastresunet.training.compare import (
    activation_bytes,
    gradient_difference,
    loss_curves,
    output_difference,
    step_times,
)
from fastresunet.training.synthetic import draw_polyp_image
from fastresunet.training.transforms import to_network_input

from .conftest import FILTERS


def batch(seed: int, images: int = 4, size: int = 32) -> tuple[Tensor, Tensor]:
    drawn = [draw_polyp_image(size, seed * 100 + index) for index in range(images)]
    return (
        torch.stack([to_network_input(image) for image, _ in drawn]),
        torch.stack([mask[None].float() for _, mask in drawn]),
    )


def matched_models() -> tuple[FastResUNetPP, ResUNetPP]:
    torch.manual_seed(0)
    reference = ResUNetPP(filters=FILTERS)
    model = FastResUNetPP(filters=FILTERS)
    model.load_state_dict(reference.state_dict())
    return model, reference


def test_first_twenty_losses_agree() -> None:
    fast, reference = loss_curves(matched_models(), [batch(seed) for seed in range(20)], lr=3e-3)
    assert len(reference) == 20
    assert fast == pytest.approx(reference, rel=1e-3)
    assert sum(reference[-5:]) < sum(reference[:5])


def test_outputs_and_gradients_agree() -> None:
    model, reference = matched_models()
    data = batch(0)
    assert output_difference(model, reference, data[0]) < 1e-4
    assert gradient_difference(model, reference, data) < 1e-2


def test_differences_are_relative_to_the_reference() -> None:
    model, reference = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.1)
        reference.weight.fill_(1.0)
    images = torch.rand(2, 1, 4, 4)
    assert output_difference(model, reference, images) == pytest.approx(0.1, rel=1e-5)
    assert gradient_difference(reference, reference, (images, (images > 0.5).float())) == 0


def test_activation_bytes_count_each_storage_once_without_parameters() -> None:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    # A convolution keeps its input, a sigmoid its output; a linear layer keeps its input, here the sigmoid's output.
    convolution = nn.Conv2d(3, 3, 1)
    assert activation_bytes(convolution, images) == images.nbytes
    assert activation_bytes(nn.Sequential(convolution, nn.Sigmoid()), images) == 2 * images.nbytes
    assert activation_bytes(nn.Sequential(nn.Sigmoid(), nn.Flatten(), nn.Linear(192, 1)), images) == images.nbytes


def test_step_times_are_medians_of_both() -> None:
    model, reference = matched_models()
    times = step_times(model, reference, batch(0), repeats=1, warmups=0)
    assert times.model > 0
    assert times.ratio == times.model / times.reference
