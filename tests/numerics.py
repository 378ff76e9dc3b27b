"""How close is close enough: differences held against the rounding of the reference itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def relative_difference(value: Tensor, expected: Tensor) -> float:
    """Return the largest difference, divided by the largest expected value."""
    value, expected = value.detach(), expected.detach()
    return float((value - expected).abs().max() / expected.abs().max().clamp_min(1e-300))


def rounding(dtype: torch.dtype, reduction_length: int = 1) -> float:
    """Return the relative error that a few roundings to ``dtype`` and a sum of ``reduction_length`` terms explain.

    Sums of low-precision terms are accumulated in float32.
    """
    accumulation = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    return 4 * torch.finfo(dtype).eps + accumulation * reduction_length**0.5


def assert_as_close_as_reference(
    value: Tensor,
    same_dtype: Tensor,
    exact: Tensor,
    dtype: torch.dtype,
    reduction_length: int = 1,
    factor: float = 2.0,
) -> None:
    """Assert ``|value - exact| <= factor * |same_dtype - exact| + rounding`` in the largest norm.

    Args:
        value: what the fast code computed.
        same_dtype: what plain PyTorch computed in the same dtype.
        exact: what plain PyTorch computed in float64.
        dtype: lowest precision on the way to the value.
        reduction_length: number of products in the longest sum.
        factor: how many times the reference's own error is allowed.
    """
    reference_error = largest_error(same_dtype, exact)
    assert_error_explained(value, exact, reference_error, rounding(dtype, reduction_length), factor)


def largest_error(value: Tensor, exact: Tensor) -> float:
    """Return the largest absolute difference from float64."""
    return float((value.double() - exact).abs().max())


def assert_error_explained(
    value: Tensor, exact: Tensor, reference_error: float, relative_rounding: float, factor: float
) -> None:
    """Assert ``|value - exact| <= factor * reference_error + relative_rounding * |exact|`` in the largest norm."""
    error = largest_error(value, exact)
    allowed = factor * reference_error + relative_rounding * float(exact.abs().max())
    assert error <= allowed, f"error {error:.3e}, reference error {reference_error:.3e}, allowed {allowed:.3e}"


def assert_gradients_close(model: nn.Module, reference: nn.Module, tolerance: float) -> None:
    """Assert that all parameter gradients agree: relative to each gradient, absolute where it is 0 but for rounding."""
    pairs = list(zip(model.named_parameters(), reference.parameters(), strict=True))
    largest = max(float(q.grad.abs().max()) for _, q in pairs if q.grad is not None)
    for (name, p), q in pairs:
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is None or q.grad is None:
            continue
        scale = float(q.grad.abs().max())
        difference = float((p.grad - q.grad).abs().max())
        allowed = tolerance * (scale if scale > 1e-9 * largest else largest)
        assert difference <= allowed, f"{name}: difference {difference:.3e}, largest gradient {scale:.3e}"


def assert_gradients_round_alike(trials: Sequence[tuple[nn.Module, nn.Module, nn.Module]]) -> None:
    """Assert that gradients in low precision are as close to float64 as the reference's.

    Rounding can turn a ReLU on or off, and a single weight of the first layer can dominate a total, so that single
    gradients of either network may be far off: the median over parameters is held tightly, the total loosely, both over
    several networks.

    Args:
        trials: the network, its reference and that in float64, after a backward pass each.
    """
    gradients = [triple for networks in trials for triple in _gradients_with_effect(*networks)]
    errors, reference_errors = (
        torch.stack([(triple[i] - triple[2]).norm() / triple[2].norm() for triple in gradients]) for i in (0, 1)
    )
    assert float(errors.median()) <= 2 * float(reference_errors.median())
    totals = [torch.stack([(triple[i] - triple[2]).norm() for triple in gradients]).norm() for i in (0, 1)]
    assert float(totals[0]) <= 4 * float(totals[1])


def _gradients_with_effect(model: nn.Module, reference: nn.Module, exact: nn.Module) -> list[tuple[Tensor, ...]]:
    """Return the gradients of each parameter, without biases in front of a BatchNorm: theirs are 0 but for rounding."""
    parameters = zip(model.parameters(), reference.parameters(), exact.parameters(), strict=True)
    gradients = [tuple(p.grad.double() for p in triple if p.grad is not None) for triple in parameters]
    largest = max(float(true.abs().max()) for *_, true in gradients)
    return [triple for triple in gradients if float(triple[2].abs().max()) > 1e-9 * largest]


def assert_buffers_close(model: nn.Module, reference: nn.Module, tolerance: float) -> None:
    """Assert that running statistics and batch counters agree."""
    for (name, a), b in zip(model.named_buffers(), reference.buffers(), strict=True):
        assert relative_difference(a.double(), b.double()) <= tolerance, name


def hurtful_image(shape: Sequence[int], kind: str = "normal", dtype: torch.dtype = torch.float64) -> Tensor:
    """Return random features that make rounding visible.

    Args:
        shape: (N, C, H, W).
        kind: ``"normal"``; ``"offset"``: mean 300, spread 1; ``"negative"``: all below 0; ``"ties"``: few distinct
            values; ``"strided"``: not contiguous in any layout.
        dtype: of the result.
    """
    x = torch.randn(*shape, dtype=torch.float64)
    if kind == "offset":
        x = x + 300
    elif kind == "negative":
        x = -x.abs() - 1
    elif kind == "ties":
        x = x.round()
    elif kind == "strided":
        x = torch.randn(shape[0], shape[1], 2 * shape[2], 3 * shape[3], dtype=torch.float64)[:, :, ::2, 1::3]
    return x.to(dtype)
