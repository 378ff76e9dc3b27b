"""The attention gate as one operation against plain PyTorch: values, gradients, registration and error messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from fastresunet import ops
from fastresunet.ops import AttentionParameters, Maps
from tests.ops import plain
from tests.ops.block_cases import (
    EPS,
    NOTHING,
    as_leaves,
    assert_same_results,
    backward_arguments,
    convolution,
    detached,
    feature_maps,
    leaves,
    norm,
    with_statistics,
)

SHAPES = ((2, 3, 8, 12), (2, 5, 4, 6))


@dataclass(frozen=True)
class Case:
    """Sizes and options of a gate.

    Attributes:
        name: test id.
        shapes: of skip connection and x.
        gated: which of them have a gate.
        running: for each norm, whether it uses running statistics.
    """

    name: str
    shapes: tuple[tuple[int, int, int, int], ...] = SHAPES
    gated: tuple[bool, bool] = (False, False)
    running: tuple[bool, bool, bool] = (False, False, False)


CASES = [
    Case("plain"),
    Case("gates", gated=(True, True)),
    Case("gate-of-skip", gated=(True, False)),
    Case("gate-of-x", gated=(False, True)),
    Case("odd-size", ((3, 3, 9, 7), (3, 5, 4, 3)), (True, True)),
    Case("one-pixel", ((3, 3, 2, 3), (3, 5, 1, 1)), (True, True)),
    Case("running", gated=(True, True), running=(True, True, True)),
    Case("running-no-gate", running=(True, True, True)),
    Case("running-skip", gated=(True, True), running=(True, False, False)),
    Case("running-x", gated=(True, True), running=(False, True, False)),
    Case("running-sum", gated=(True, True), running=(False, False, True)),
]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def given(case: Case, kind: str = "normal") -> tuple[Maps, AttentionParameters]:
    """Return the maps and parameters of a case."""
    skip, channels = case.shapes[0][1], case.shapes[1][1]
    parameters = AttentionParameters(
        norm(skip, case.running[0]),
        convolution(channels, skip, 3),
        norm(channels, case.running[1]),
        convolution(channels, channels, 3),
        norm(channels, case.running[2]),
        convolution(channels, channels, 3),
    )
    return feature_maps(case.shapes, case.gated, (False, False), kind), parameters


def needed_statistics(maps: Maps, case: Case) -> Maps:
    """Return the maps with the statistics that their norms use."""
    full = with_statistics(maps)
    mean, m2 = (
        [NOTHING if running else vector for vector, running in zip(vectors, case.running, strict=False)]
        for vectors in (full.mean, full.m2)
    )
    return maps._replace(mean=mean, m2=m2)


def fused(maps: Maps, parameters: AttentionParameters, case: Case) -> tuple[Tensor, ...]:
    """Return data, mean and M2."""
    return ops.attention_gate(needed_statistics(maps, case), parameters, EPS)[:3]


def arguments(case: Case, statistics: bool) -> list[Any]:
    """Return the arguments of the registered operation."""
    maps, parameters = given(case)
    maps = needed_statistics(maps, case).cast(torch.float64)
    return [*maps, [tensor for group in parameters for tensor in group], EPS, statistics, "torch"]


@pytest.mark.parametrize("kind", ["normal", "offset", "negative", "strided"])
@by_case
def test_values_and_gradients_in_float64(case: Case, kind: str) -> None:
    maps, parameters = given(case, kind)
    results, expected = fused(maps, parameters, case), plain.attention_gate(maps, parameters, EPS)
    # An offset of 300 costs either of them some digits.
    assert_same_results(results, expected, leaves(maps, parameters), 1e-8 if kind == "offset" else 1e-11)


@pytest.mark.parametrize("used", [(0,), (1,), (0, 2), (1, 2)], ids=lambda used: "-".join(map(str, used)))
@pytest.mark.parametrize("name", ["gates", "running"])
def test_results_may_be_unused(name: str, used: tuple[int, ...]) -> None:
    case = next(case for case in CASES if case.name == name)
    maps, parameters = given(case)
    results, expected = fused(maps, parameters, case), plain.attention_gate(maps, parameters, EPS)
    assert_same_results([results[k] for k in used], [expected[k] for k in used], leaves(maps, parameters), 1e-11)


@pytest.mark.parametrize("name", ["plain", "gates"])
def test_without_statistics(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    maps, parameters = given(case)
    result = ops.attention_gate(needed_statistics(maps, case), parameters, EPS, statistics=False)
    assert result.mean.numel() == result.m2.numel() == 0
    expected = plain.attention_gate(maps, parameters, EPS)
    assert_same_results([result.data], expected[:1], leaves(maps, parameters), 1e-11)


@pytest.mark.parametrize("group", AttentionParameters._fields)
def test_gradients_of_some_parameters(group: str) -> None:
    case = next(case for case in CASES if case.name == "gates")
    maps, parameters = given(case)
    wanted = [x for x in getattr(parameters, group) if x.requires_grad]
    for x in leaves(maps, parameters):
        x.requires_grad_(any(x is one for one in wanted))
    results, expected = fused(maps, parameters, case), plain.attention_gate(maps, parameters, EPS)
    assert_same_results(results, expected, wanted, 1e-11)


def test_batch_statistics_are_those_of_the_norms() -> None:
    case = next(case for case in CASES if case.name == "gates")
    maps, parameters = given(case)
    batch = ops.attention_gate(needed_statistics(maps, case), parameters, EPS).batch
    for source, (mean, variance) in zip(maps.separate(), batch, strict=False):
        image = plain.concatenated(source)
        torch.testing.assert_close(mean, image.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(variance, image.var(dim=(0, 2, 3), correction=0))


@pytest.mark.parametrize("statistics", [True, False], ids=["statistics", "no-statistics"])
@by_case
def test_registration(case: Case, statistics: bool) -> None:
    operation = torch.ops.fastresunet.attention_gate.default
    assert set(opcheck(operation, tuple(as_leaves(arguments(case, statistics)))).values()) == {"SUCCESS"}


@pytest.mark.parametrize("needs_weights", [True, False], ids=["weights", "no-weights"])
@by_case
def test_registration_of_the_gradient(case: Case, needs_weights: bool) -> None:
    given_arguments = detached(arguments(case, True))
    *maps, parameters, eps, _, _ = given_arguments
    operation = torch.ops.fastresunet.attention_gate.default
    grads, kept = backward_arguments(operation, given_arguments, range(17), 3)
    backward = (*grads, *maps, parameters, kept, eps, [needs_weights, True, needs_weights], "torch")
    checked = opcheck(torch.ops.fastresunet.attention_gate_backward.default, backward)
    assert set(checked.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("shapes", "dtype", "error", "message"),
    [
        (((2, 4, 8, 12), SHAPES[1]), torch.float64, ValueError, "expected features of 3 channels, got 4"),
        ((SHAPES[0], (2, 4, 4, 6)), torch.float64, ValueError, "expected features of 5 channels, got 4"),
        (
            ((2, 3, 8, 14), SHAPES[1]),
            torch.float64,
            ValueError,
            "half the skip connection's size, 2 x 4 x 7 .*got 2 x 4 x 6",
        ),
        (
            ((3, 3, 8, 12), SHAPES[1]),
            torch.float64,
            ValueError,
            "half the skip connection's size, 3 x 4 x 6 .*got 2 x 4 x 6",
        ),
        (SHAPES, torch.float32, TypeError, "one dtype without autocast, got torch.float32 and torch.float64"),
        (SHAPES, torch.int64, TypeError, "floating point, got torch.int64"),
    ],
    ids=["skip-channels", "channels", "size", "samples", "dtype", "integer"],
)
def test_errors(
    shapes: tuple[tuple[int, int, int, int], ...], dtype: torch.dtype, error: type[Exception], message: str
) -> None:
    _, parameters = given(Case("plain"))
    maps = feature_maps(shapes, (False, False), (False, False))
    maps = maps._replace(data=[x.detach().to(dtype) for x in maps.data])
    with pytest.raises(error, match=message):
        ops.attention_gate(maps, parameters, EPS)


def test_a_second_derivative_is_refused() -> None:
    case = CASES[0]
    maps, parameters = given(case)
    loss = fused(maps, parameters, case)[0].square().sum()
    (gradient,) = torch.autograd.grad(loss, parameters.conv[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()
