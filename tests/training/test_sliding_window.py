"""Overlapping tiles against the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastresunet import FastResUNetPP
from fastresunet.training.sliding_window import predict_tiled
from tests.numerics import rounding


class Function(nn.Module):
    """A function of tiles as a network; remembers their shapes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.shapes: list[torch.Size] = []
        self.register_parameter("somewhere", nn.Parameter(torch.zeros(())))

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(x.shape)
        return self.function(x)


def pointwise(x: Tensor) -> Tensor:
    return 8 * x.mean(dim=1, keepdim=True) - 4


def on_the_border_of_its_tile(x: Tensor) -> Tensor:
    logits = torch.full_like(x[:, :1], -30)
    logits[:, :, [0, -1]] = logits[:, :, :, [0, -1]] = 30
    return logits


def random_image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(64, 96), (61, 35), (20, 90), (17, 13), (32, 32)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_a_pointwise_function_of_tiles_is_that_of_the_image(size: tuple[int, int], overlap: float) -> None:
    image = random_image(*size)
    tiled = predict_tiled(Function(pointwise), image, 32, overlap=overlap)
    expected = pointwise(image[None].float() / 255)[0].sigmoid()
    assert tiled.shape == (1, *size)
    # Sums over all tiles of a pixel, of its probabilities and of their weights.
    tiles = math.ceil(1 / (1 - overlap)) ** 2
    torch.testing.assert_close(tiled, expected, rtol=0, atol=2 * rounding(torch.float32, tiles))
    assert 0 <= float(tiled.min()) <= float(tiled.max()) <= 1


def test_tiles_are_computed_in_batches_without_stretching() -> None:
    network = Function(pointwise)
    predict_tiled(network, random_image(64, 70), 32, overlap=0.5, batch_size=4)
    assert {shape[1:] for shape in network.shapes} == {(3, 32, 32)}
    assert [shape[0] for shape in network.shapes] == [4, 4, 4]


def test_an_image_of_one_tile_is_computed_as_it_is() -> None:
    model, image = FastResUNetPP(filters=(8, 8, 8, 8, 8)).eval(), random_image(32, 32)
    with torch.no_grad():
        expected = model(image[None].float() / 255)[0].sigmoid()
    torch.testing.assert_close(predict_tiled(model, image, 32), expected, rtol=0, atol=1e-6)


def test_overlap_hides_the_borders_of_tiles() -> None:
    network, image = Function(on_the_border_of_its_tile), random_image(96, 96)
    inside = slice(16, 80)
    assert predict_tiled(network, image, 32, overlap=0)[0, inside, inside].max() > 0.99
    assert predict_tiled(network, image, 32, overlap=0.5)[0, inside, inside].max() < 0.05


def test_values_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(FloatingPointError):
        predict_tiled(Function(lambda x: x[:, :1] / 0), random_image(40, 40), 32)
