"""The plain network against float64 numbers of the published implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastresunet import FastResUNetPP, ResUNetPP
from tests import golden

NETWORKS = [ResUNetPP, FastResUNetPP]


@pytest.fixture(params=NETWORKS, ids=lambda network: network.__name__)
def model(request: pytest.FixtureRequest) -> ResUNetPP:
    network: ResUNetPP = request.param().double()
    golden.fill(network)
    return network


def test_parameter_names_and_order_are_the_published_ones(model: ResUNetPP) -> None:
    assert [name for name, _ in model.named_parameters()] == list(golden.archive()["param_names"])
    assert sum(p.numel() for p in model.parameters()) == 4_062_993


@pytest.mark.parametrize("case", ["a", "b"])
def test_evaluation_logits(model: ResUNetPP, case: str) -> None:
    image, _ = golden.case(case)
    with torch.no_grad():
        logits = model.eval()(image)
    expected = golden.archive()[f"{case}.eval_logits"]
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("case", ["a", "b"])
def test_training_step(model: ResUNetPP, case: str) -> None:
    numbers = golden.archive()
    image, target = golden.case(case)
    logits = model.train()(image)
    loss = golden.loss(logits, target)
    loss.backward()

    expected = numbers[f"{case}.train_logits"]
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert loss.item() == pytest.approx(float(numbers[f"{case}.train_loss"]), rel=1e-12)
    largest = numbers[f"{case}.grad_norm"].max()
    for (name, parameter), norm, dot in zip(
        model.named_parameters(), numbers[f"{case}.grad_norm"], numbers[f"{case}.grad_dot"], strict=True
    ):
        assert parameter.grad is not None
        probe = golden.generator(f"probe_{name}").normal(size=parameter.numel())
        tolerance = 1e-9 * norm + 1e-12 * largest
        assert float(parameter.grad.norm()) == pytest.approx(norm, abs=tolerance), name
        assert float(parameter.grad.flatten() @ torch.from_numpy(probe)) == pytest.approx(dot, abs=30 * tolerance), name
    buffers = dict(model.named_buffers())
    for name, norm in zip(numbers["running_names"], numbers[f"{case}.running_norm"], strict=True):
        assert float(buffers[name].norm()) == pytest.approx(norm, rel=1e-12), name
