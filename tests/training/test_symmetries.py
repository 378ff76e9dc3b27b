"""Averages over flips and quarter turns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastresunet import FastResUNetPP
from fastresunet.training.inference import to_probabilities
from fastresunet.training.symmetries import SymmetryEnsemble

SIZES = [(16, 16), (9, 14)]


def network(outputs: int, symmetric: bool) -> nn.Conv2d:
    """Return a 3x3 convolution, whose kernel is symmetric in all 8 ways or in none."""
    convolution = nn.Conv2d(3, outputs, 3, padding=1, dtype=torch.float64)
    kernel = torch.randn(outputs, 3, 3, 3, dtype=torch.float64)
    if symmetric:
        kernel = kernel + kernel.rot90(1, (2, 3)) + kernel.rot90(2, (2, 3)) + kernel.rot90(3, (2, 3))
        kernel = kernel + kernel.flip(3)
    convolution.load_state_dict({"weight": kernel, "bias": torch.randn(outputs)})
    return convolution


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_network_that_turns_with_its_image_is_unchanged(outputs: int, size: tuple[int, int]) -> None:
    plain, x = network(outputs, symmetric=True), torch.rand(2, 3, *size, dtype=torch.float64)
    found, expected = to_probabilities(SymmetryEnsemble(plain)(x)), to_probabilities(plain(x))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_mean_of_the_probabilities_of_all_flips_and_transpositions(outputs: int, size: tuple[int, int]) -> None:
    plain, x = network(outputs, symmetric=False), torch.rand(2, 3, *size, dtype=torch.float64)
    total = torch.zeros(2, outputs, *size, dtype=torch.float64)
    for axes in ((), (2,), (3,), (2, 3)):
        total += to_probabilities(plain(x.flip(axes)).flip(axes))
        total += to_probabilities(plain(x.mT.flip(axes)).flip(axes).mT)
    torch.testing.assert_close(to_probabilities(SymmetryEnsemble(plain)(x)), total / 8, rtol=0, atol=1e-12)
    assert (to_probabilities(plain(x)) - total / 8).abs().max() > 1e-3


def test_the_result_turns_with_the_image() -> None:
    ensemble, x = SymmetryEnsemble(FastResUNetPP(filters=(8, 8, 8, 8, 8)).double().eval()), torch.rand(1, 3, 16, 24)
    result = ensemble(x.double())
    torch.testing.assert_close(ensemble(x.double().mT), result.mT)
    torch.testing.assert_close(ensemble(x.double().flip(2)), result.flip(2))


@pytest.mark.parametrize("logit", [-300.0, -30.0, 30.0, 300.0])
def test_certain_predictions_stay_finite(logit: float) -> None:
    class Certain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full_like(x, logit)

    x = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(SymmetryEnsemble(Certain())(x), torch.full_like(x, logit))


def test_values_that_are_not_numbers_show() -> None:
    plain = network(1, symmetric=False)
    plain.load_state_dict({"weight": plain.weight.detach(), "bias": torch.tensor([float("nan")])})
    result = SymmetryEnsemble(plain)(torch.rand(1, 3, 8, 8, dtype=torch.float64))
    assert result.isnan().all()
