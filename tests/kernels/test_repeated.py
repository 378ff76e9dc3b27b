"""Operations repeated from recordings, by interpreted kernels: the whole network does the same as without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastresunet import FastResUNetPP, fold
from tests.numerics import assert_buffers_close, assert_gradients_close, relative_difference
from tests.repeating import repeat_interpreted


def small_network(backend: str) -> FastResUNetPP:
    """Return a network of few channels with random BatchNorm biases."""
    network = FastResUNetPP(filters=(8, 8, 8, 8, 8), aspp_rates=(1,), backend=backend)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    return network


def step(network: nn.Module, image: Tensor) -> Tensor:
    """Return the result of a forward pass after a backward pass."""
    output: Tensor = network(image)
    output.sin().sum().backward()
    return output.detach()


def test_repeated_training_steps_equal_those_of_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = repeat_interpreted(monkeypatch)
    networks = [small_network(backend).double() for backend in ("triton", "torch")]
    networks[0].load_state_dict(networks[1].state_dict())
    for images in torch.randn(2, 2, 3, 8, 8, dtype=torch.float64):
        repeated.replays = 0
        outputs = [step(network, images) for network in networks]
        assert relative_difference(*outputs) <= 1e-12
    assert_gradients_close(networks[0], networks[1], 1e-9)
    assert_buffers_close(networks[0], networks[1], 1e-12)
    # Forward and backward, in the second step all: seven residual blocks, three gates, two pyramids, the convolutions
    # after them and the output's.
    assert repeated.replays == 2 * (7 + 3 + 2 + 3)


def test_repeated_folded_inference_equals_that_of_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = repeat_interpreted(monkeypatch)
    network = small_network("torch").double().eval()
    folded = fold(network, backend="triton")
    for images in torch.randn(2, 2, 3, 8, 8, dtype=torch.float64):
        repeated.replays = 0
        with torch.no_grad():
            assert relative_difference(folded(images), network(images)) <= 1e-10
    assert repeated.replays == 1  # the whole pass
    assert len(repeated.launches) > 20
