"""Every building block alone, on plain tensors, against its plain twin; one battery for all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastresunet import blocks, reference
from fastresunet.feature_map import FeatureMap
from tests.numerics import assert_buffers_close, assert_gradients_close, hurtful_image, relative_difference

Shape = tuple[int, int, int, int]
BLOCKS: dict[str, tuple[Callable[[Any], nn.Module], list[Shape]]] = {
    "squeeze-excite": (lambda m: m.SqueezeExcite(9, 4), [(2, 9, 5, 7)]),
    "stem": (lambda m: m.StemBlock(3, 8), [(2, 3, 9, 7)]),
    "residual": (lambda m: m.ResidualBlock(5, 8), [(2, 5, 6, 9)]),
    "residual-stride2": (lambda m: m.ResidualBlock(5, 8, stride=2), [(2, 5, 7, 10)]),
    "aspp": (lambda m: m.ASPP(6, 4, (1, 3, 9)), [(2, 6, 8, 5)]),
    "attention-gate": (lambda m: m.AttentionGate(3, 5), [(2, 3, 8, 12), (2, 5, 4, 6)]),
    "decoder": (lambda m: m.DecoderBlock(3, 5, 8), [(2, 3, 8, 12), (2, 5, 4, 6)]),
}


@pytest.fixture(params=BLOCKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, list[Shape]]:
    """Return the fused block, its plain twin with equal parameters, and the shapes of its inputs."""
    build, shapes = BLOCKS[request.param]
    plain = build(reference).double()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Not the initial 0: equal values must not be normalised to exactly 0, where the ReLU has no derivative.
            nn.init.normal_(module.bias)
    fused = build(blocks).double()
    fused.load_state_dict(plain.state_dict())
    return fused, plain, shapes


@pytest.mark.parametrize("kind", ["normal", "offset", "negative", "ties", "strided"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_same_step_as_the_plain_block(
    case: tuple[nn.Module, nn.Module, list[Shape]], training: bool, kind: str
) -> None:
    fused, plain, shapes = case
    inputs = [hurtful_image(shape, kind).requires_grad_() for shape in shapes]
    twins = [x.detach().clone().requires_grad_() for x in inputs]
    output, expected = fused.train(training)(*inputs), plain.train(training)(*twins)
    assert relative_difference(output, expected) <= 1e-10
    direction = torch.randn_like(expected)
    output.backward(direction)
    expected.backward(direction)
    assert_gradients_close(fused, plain, 1e-6)
    assert_buffers_close(fused, plain, 1e-12)
    for x, twin in zip(inputs, twins, strict=True):
        assert x.grad is not None
        assert twin.grad is not None
        assert relative_difference(x.grad, twin.grad) <= 1e-6


def test_state_dict_is_that_of_the_plain_block(case: tuple[nn.Module, nn.Module, list[Shape]]) -> None:
    fused, plain, _ = case
    assert list(fused.state_dict()) == list(plain.state_dict())


def test_feature_maps_in_give_a_feature_map_out(case: tuple[nn.Module, nn.Module, list[Shape]]) -> None:
    fused, _, shapes = case
    fused.eval()
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    result = fused(*map(FeatureMap.from_tensor, inputs))
    assert isinstance(result, FeatureMap)
    assert torch.equal(result.to_tensor(), fused(*inputs))


def test_input_is_left_alone(case: tuple[nn.Module, nn.Module, list[Shape]]) -> None:
    fused, _, shapes = case
    # Channels-last, so that no conversion makes a copy.
    inputs = [torch.randn(shape, dtype=torch.float64).to(memory_format=torch.channels_last) for shape in shapes]
    copies = [x.clone() for x in inputs]
    parameters = copy.deepcopy(list(fused.parameters()))
    fused(*inputs).sum().backward()
    assert all(map(torch.equal, inputs, copies))
    assert all(map(torch.equal, fused.parameters(), parameters))


def test_hooks_see_the_blocks() -> None:
    block = blocks.DecoderBlock(3, 5, 8)
    seen: list[Tensor] = []
    block.a1.register_forward_hook(lambda module, inputs, output: seen.append(output.to_tensor()))
    block(torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4))
    assert [tuple(x.shape) for x in seen] == [(2, 5, 4, 4)]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "floating-point tensor, got torch.uint8"),
        ([1.0], TypeError, "floating-point tensor, got list"),
        (torch.zeros(3, 8, 8), ValueError, r"\(N, C, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(2, 4, 8, 8), ValueError, r"\(C, 4, 3, 3\), got \(8, 3, 3, 3\)"),
    ],
    ids=["integer", "list", "rank", "channels"],
)
def test_bad_input(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        blocks.StemBlock(3, 8)(value)


def test_reduction_larger_than_the_channels() -> None:
    with pytest.raises(ValueError, match="4 channels and reduction 8"):
        blocks.SqueezeExcite(4, 8)
