"""Feature maps and parameters that the block operations are tested with, and how their results are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastresunet.ops import Maps, channel_statistics
from tests.numerics import hurtful_image, relative_difference

EPS = [1e-5, 1e-3, 1e-4]
NOTHING = torch.empty(0, dtype=torch.float64)


def leaf(*shape: int, scale: float = 1.0) -> Tensor:
    """Return a random float64 tensor that requires a gradient."""
    return (scale * torch.randn(shape, dtype=torch.float64)).requires_grad_()


def feature_maps(
    shapes: Sequence[tuple[int, int, int, int]], gated: Sequence[bool], upsample: Sequence[bool], kind: str = "normal"
) -> Maps:
    """Return maps whose data and gates are leaves; ``kind`` as in ``hurtful_image``."""
    data = [hurtful_image(shape, kind).requires_grad_() for shape in shapes]
    gates = [(torch.rand(shape[:2], dtype=torch.float64) + 0.5).requires_grad_() for shape in shapes]
    gate = [g if wanted else NOTHING for g, wanted in zip(gates, gated, strict=True)]
    return Maps(data, [NOTHING] * len(data), [NOTHING] * len(data), gate, list(upsample))


def with_statistics(maps: Maps) -> Maps:
    """Return the maps with mean and M2 of their data, differentiable."""
    mean, m2 = zip(*map(channel_statistics, maps.data), strict=True)
    return maps._replace(mean=list(mean), m2=list(m2))


def convolution(outputs: int, inputs: int, kernel: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias."""
    return leaf(outputs, inputs, kernel, kernel, scale=(inputs * kernel**2) ** -0.5), leaf(outputs)


def norm(channels: int, running: bool) -> tuple[Tensor, ...]:
    """Return gamma and beta, and running mean and variance, empty without ``running``."""
    if not running:
        return leaf(channels), leaf(channels), NOTHING, NOTHING
    return leaf(channels), leaf(channels), torch.randn(channels).double(), torch.rand(channels).double() + 0.5


def leaves(maps: Maps, parameters: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return all tensors that require gradients."""
    tensors = [*maps.data, *maps.gate, *(tensor for group in parameters for tensor in group)]
    return [tensor for tensor in tensors if tensor.requires_grad]


def assert_same_results(
    results: Sequence[Tensor], expected: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float
) -> None:
    """Assert that values and, for fixed random directions, gradients of ``wanted`` agree."""
    for value, exact in zip(results, expected, strict=True):
        assert relative_difference(value, exact) <= tolerance
    directions = [torch.randn_like(exact) / 16 for exact in expected]
    gradients = [torch.autograd.grad(list(y), wanted, directions) for y in (results, expected)]
    # In front of a BatchNorm a bias has a gradient of 0, for rounding another one in plain PyTorch.
    largest = max(float(exact.abs().max()) for exact in gradients[1])
    for value, exact in zip(*gradients, strict=True):
        assert float((value - exact).abs().max()) <= tolerance * largest


def backward_arguments(
    operation: Any, arguments: Sequence[Any], kept: Sequence[int], grads: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return random gradients of the first results of ``operation``, and those results that it keeps."""
    with torch.no_grad():
        results = operation(*detached(arguments))
    gradients = [torch.randn_like(result, memory_format=torch.preserve_format) for result in results[:grads]]
    return gradients, [results[k] for k in kept]


def detached(arguments: Sequence[Any]) -> list[Any]:
    """Return arguments of an operation without gradients."""

    def one(x: Any) -> Any:
        return x.detach() if isinstance(x, Tensor) else x

    return [[one(x) for x in value] if isinstance(value, list) else one(value) for value in arguments]


def as_leaves(arguments: Sequence[Any]) -> list[Any]:
    """Return arguments of an operation as leaves that require gradients where they did, so that nothing is shared."""

    def one(x: Any) -> Any:
        return x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x

    return [[one(x) for x in value] if isinstance(value, list) else one(value) for value in arguments]
