"""The folded network in the trained one's place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastresunet.inference import FoldedResUNetPP, compile_for_cpu, fold
from fastresunet.training.checkpoints import load_model
from fastresunet.training.fit import TrainingResult
from fastresunet.training.inference import predict_probabilities
from fastresunet.training.sliding_window import predict_tiled
from fastresunet.training.symmetries import SymmetryEnsemble
from fastresunet.training.trained_network import load_predictor
from tests.numerics import relative_difference


def openvino(network: nn.Module) -> nn.Module:
    pytest.importorskip("openvino")
    return compile_for_cpu(fold(network), "openvino")  # type: ignore[arg-type]


@pytest.fixture(params=[fold, openvino], ids=["folded", "openvino"])
def networks(request: pytest.FixtureRequest, trained: TrainingResult) -> tuple[nn.Module, nn.Module]:
    """A trained network and what folding makes of it."""
    model = load_model(trained.best_checkpoint)[0]
    transform: Callable[[nn.Module], nn.Module] = request.param
    return transform(model), model


def random_image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_evaluation_and_prediction_fold_on_the_cpu(trained: TrainingResult) -> None:
    folded, size, _ = load_predictor(trained.best_checkpoint, "cpu", cuda_graphs=False)
    model, trained_size, _ = load_model(trained.best_checkpoint)
    assert isinstance(folded, FoldedResUNetPP)
    assert size == trained_size
    x = torch.rand(2, 3, 32, 40)
    assert relative_difference(folded(x), model(x)) <= 1e-5


def test_stretched_prediction(networks: tuple[nn.Module, nn.Module]) -> None:
    images = [random_image(40, 61), random_image(32, 32)]
    folded, plain = (predict_probabilities(network, images, 32) for network in networks)
    for found, expected in zip(folded, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_augmented_prediction(networks: tuple[nn.Module, nn.Module]) -> None:
    x = torch.rand(1, 3, 24, 33)  # a quarter turn changes its shape
    folded, plain = (SymmetryEnsemble(network)(x) for network in networks)
    assert relative_difference(folded, plain) <= 1e-5


def test_tiled_prediction(networks: tuple[nn.Module, nn.Module]) -> None:
    image = random_image(50, 70)
    folded, plain = (predict_tiled(SymmetryEnsemble(network), image, 32) for network in networks)
    torch.testing.assert_close(folded, plain, rtol=0, atol=1e-5)
