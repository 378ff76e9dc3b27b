"""BatchNorm and squeeze-and-excitation as vectors, against autograd and ``torch.library.opcheck``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastresunet import ops
from fastresunet.ops.backend import compute
from fastresunet.ops.batch_affine import Moments
from tests.numerics import relative_difference

PIXELS = 12


def image(samples: int, channels: int) -> Tensor:
    return (torch.randn(samples, channels, 3, 4, dtype=torch.float64) * 2 + 5).requires_grad_()


def moments(x: Tensor, gate: Tensor | None) -> Moments:
    mean = x.mean(dim=(2, 3))
    return Moments(mean, (x - mean[:, :, None, None]).square().sum(dim=(2, 3)), gate, PIXELS)


def check_affine(channels: tuple[int, ...], gated: bool, running: bool, backend: ops.Backend) -> None:
    """Assert that reading through the affine is PyTorch's BatchNorm, gradients included."""
    samples, total = 3, sum(channels)
    images = [image(samples, c) for c in channels]
    gates = [torch.rand(samples, c, dtype=torch.float64, requires_grad=True) if gated else None for c in channels]
    gamma, beta = (torch.randn(total, dtype=torch.float64, requires_grad=True) for _ in range(2))
    statistics = (torch.randn(total).double(), torch.rand(total).double() + 0.5) if running else None
    gated_images = [x if g is None else x * g[:, :, None, None] for x, g in zip(images, gates, strict=True)]
    mean, var = statistics or (None, None)
    expected = F.batch_norm(torch.cat(gated_images, dim=1), mean, var, gamma, beta, training=not running)
    affines, _, _ = ops.batch_affine(
        [moments(x, g) for x, g in zip(images, gates, strict=True)],
        channels,
        samples,
        gamma,
        beta,
        1e-5,
        torch.float64,
        statistics,
        backend,
    )
    results = []
    for x, affine in zip(images, affines, strict=True):
        center, scale, shift = affine[:, :, :, None, None]
        # The result does not depend on the centre, which carries no gradient.
        results.append((x - center.detach()) * scale + shift)
    result = torch.cat(results, dim=1)
    assert relative_difference(result, expected) <= 1e-12
    leaves = [*images, *(g for g in gates if g is not None), gamma, beta]
    direction = torch.randn_like(expected)
    for value, exact in zip(*(torch.autograd.grad(y, leaves, direction) for y in (result, expected)), strict=True):
        assert relative_difference(value, exact) <= 1e-10


def check_excitation(channels: int, hidden: int, backend: ops.Backend) -> None:
    """Assert that the excitation is two linear layers, gradients included."""
    mean = torch.randn(3, channels, dtype=torch.float64, requires_grad=True)
    weight1 = torch.randn(hidden, channels, dtype=torch.float64, requires_grad=True)
    weight2 = torch.randn(channels, hidden, dtype=torch.float64, requires_grad=True)
    expected = torch.sigmoid(F.linear(F.relu(F.linear(mean, weight1)), weight2))
    result = ops.excitation(mean, weight1, weight2, backend)
    assert relative_difference(result, expected) <= 1e-12
    leaves, direction = (mean, weight1, weight2), torch.randn_like(expected)
    for value, exact in zip(*(torch.autograd.grad(y, leaves, direction) for y in (result, expected)), strict=True):
        assert relative_difference(value, exact) <= 1e-10


def check_excitation_statistics(samples: int, backend: ops.Backend) -> None:
    """Assert that other gradients of mean and M2 join those through the excitation."""
    channels, hidden = 70, 9
    mean = torch.randn(samples, channels, dtype=torch.float64, requires_grad=True)
    weight1 = torch.randn(hidden, channels, dtype=torch.float64, requires_grad=True)
    weight2 = torch.randn(channels, hidden, dtype=torch.float64, requires_grad=True)
    grad, added, grad_m2 = torch.randn(3, samples, channels, dtype=torch.float64)
    gate = torch.sigmoid(F.linear(F.relu(F.linear(mean, weight1)), weight2))
    expected = torch.autograd.grad(gate, (mean, weight1, weight2), grad)
    operands = [x.detach() for x in (grad, gate, mean, weight1, weight2)]
    for more, squares in ((added, grad_m2), (None, grad_m2), (added, None)):
        statistics, *weights = compute(backend, "excitation_backward", *operands, more, squares)
        assert torch.equal(statistics[0], operands[2])
        assert torch.equal(statistics[1], torch.zeros_like(grad_m2) if squares is None else squares)
        exact = (expected[0] if more is None else expected[0] + more, *expected[1:])
        for value, true in zip((statistics[2], *weights), exact, strict=True):
            assert relative_difference(value, true) <= 1e-12


def check_added_gates(running: bool, backend: ops.Backend) -> None:
    """Assert that a gate's gradient from elsewhere is added to that through BatchNorm, of either map."""
    samples, channels = 11, (5, 18)
    vectors = [torch.rand(3, samples, c, dtype=torch.float64) + 0.5 for c in channels]
    moments = [x for mean, m2, gate in vectors for x in (*([None, None] if running else [mean, m2]), gate, PIXELS)]
    gamma, mu, var = torch.rand(3, sum(channels), dtype=torch.float64) + 0.5
    grads = [torch.randn(3, samples, c, dtype=torch.float64) for c in channels]
    operands = (*grads, *moments, samples, channels[0], gamma, mu, var, 1e-5, not running)
    alone = compute(backend, "batch_affine_backward", *operands)
    for wanted in ((True, True), (True, False), (False, True)):
        added = [
            torch.randn(samples, c, dtype=torch.float64) if w else None for c, w in zip(channels, wanted, strict=True)
        ]
        for k, (value, before) in enumerate(
            zip(compute(backend, "batch_affine_backward", *operands, *added), alone, strict=True)
        ):
            more = {1: added[0], 3: added[1]}.get(k)
            assert torch.equal(value, before if more is None else before + more)


@pytest.mark.parametrize("running", [False, True], ids=["batch-statistics", "running-statistics"])
@pytest.mark.parametrize("gated", [False, True], ids=["no-gate", "gate"])
@pytest.mark.parametrize("channels", [(5,), (5, 18)], ids=["one-map", "two-maps"])
def test_affine_is_batch_norm(channels: tuple[int, ...], gated: bool, running: bool) -> None:
    check_affine(channels, gated, running, "torch")


@pytest.mark.parametrize(("channels", "hidden"), [(16, 2), (5, 1), (70, 9)], ids=["thin", "one-hidden", "two-blocks"])
def test_excitation_is_two_linear_layers(channels: int, hidden: int) -> None:
    check_excitation(channels, hidden, "torch")


@pytest.mark.parametrize("samples", [3, 11], ids=["one-block", "two-blocks"])
def test_excitation_joins_other_gradients(samples: int) -> None:
    check_excitation_statistics(samples, "torch")


@pytest.mark.parametrize("running", [False, True], ids=["batch-statistics", "running-statistics"])
def test_gates_have_gradients_from_elsewhere(running: bool) -> None:
    check_added_gates(running, "torch")


def test_excitation_refuses_weights_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"expected means \(N, C\).*got \(2, 8\), \(2, 8\) and \(2, 8\)"):
        ops.excitation(torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(2, 8))


def test_operations_pass_opcheck() -> None:
    mean, weight1, weight2 = (torch.randn(*shape, requires_grad=True) for shape in ((2, 8), (3, 8), (8, 3)))
    torch.library.opcheck(torch.ops.fastresunet.excitation.default, (mean, weight1, weight2, "torch"))
    gamma, beta = torch.rand(10, requires_grad=True), torch.randn(10, requires_grad=True)
    first = (mean, torch.rand(2, 8, requires_grad=True), torch.rand(2, 8, requires_grad=True), PIXELS)
    second = (torch.randn(2, 2, requires_grad=True), torch.rand(2, 2, requires_grad=True), None, PIXELS)
    options = (2, 8, gamma, beta, 1e-5, None, None, torch.float32, "torch")
    torch.library.opcheck(torch.ops.fastresunet.batch_affine.default, (*first, *second, *options))
