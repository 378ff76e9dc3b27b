"""The residual block as one operation against plain PyTorch: values, gradients, registration and error messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.nn import functional as F

from fastresunet import ops
from fastresunet.ops import Maps, ResidualParameters
from fastresunet.ops.residual import _KEPT
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
    leaf,
    leaves,
    norm,
    with_statistics,
)


@dataclass(frozen=True)
class Case:
    """Sizes and options of a block.

    Attributes:
        name: test id.
        shapes: of the maps.
        gated: which of them have a gate.
        upsample: which are read at twice their size.
        stride: of the block.
        running: for each norm, whether it uses running statistics.
        stem: x is read as it is.
    """

    name: str
    shapes: tuple[tuple[int, int, int, int], ...] = ((2, 5, 6, 9),)
    gated: tuple[bool, ...] = (False,)
    upsample: tuple[bool, ...] = (False,)
    stride: int = 1
    running: tuple[bool, bool, bool] = (False, False, False)
    stem: bool = False


DECODER = ((2, 5, 4, 3), (2, 4, 8, 6))
CASES = [
    Case("plain"),
    Case("gate", gated=(True,)),
    Case("stride2-odd-size", ((3, 5, 7, 9),), (True,), stride=2),
    Case("upsampled", ((2, 5, 4, 3),), (True,), (True,)),
    Case("decoder", DECODER, (False, True), (True, False)),
    Case("decoder-gates", DECODER, (True, True), (True, False)),
    Case("decoder-no-gate", DECODER, (False, False), (True, False)),
    Case("two-maps", ((2, 5, 5, 3), (2, 4, 5, 3)), (True, False), (False, False), stride=2),
    Case("running", gated=(True,), running=(True, True, True)),
    Case("running-decoder", DECODER, (False, True), (True, False), running=(True, True, True)),
    Case("running-first", gated=(True,), running=(True, False, False)),
    Case("running-second", gated=(True,), running=(False, True, False)),
    Case("running-side", gated=(True,), running=(False, False, True)),
    Case("stem", ((2, 3, 9, 7),), stem=True),
    Case("stem-gate", ((2, 3, 9, 7),), (True,), stem=True),
    Case("one-pixel", ((3, 5, 1, 1),), (True,)),
]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
OUT, HIDDEN = 6, 3


def given(case: Case, kind: str = "normal") -> tuple[Maps, ResidualParameters]:
    """Return the maps and parameters of a case."""
    inputs = sum(shape[1] for shape in case.shapes)
    parameters = ResidualParameters(
        [NOTHING] * 4 if case.stem else norm(inputs, case.running[0]),
        convolution(OUT, inputs, 3),
        norm(OUT, case.running[1]),
        convolution(OUT, OUT, 3),
        norm(OUT, case.running[2]),
        convolution(OUT, inputs, 1),
        (leaf(HIDDEN, OUT), leaf(OUT, HIDDEN)),
    )
    return feature_maps(case.shapes, case.gated, case.upsample, kind), parameters


def fused(maps: Maps, parameters: ResidualParameters, case: Case) -> tuple[Tensor, ...]:
    """Return data, mean, M2 and gate."""
    needed = parameters.norm_in[0].numel() and not parameters.norm_in[2].numel()
    return ops.residual_block(with_statistics(maps) if needed else maps, parameters, EPS, case.stride)[:4]


def arguments(case: Case) -> list[Any]:
    """Return the arguments of the registered operation."""
    maps, parameters = given(case)
    maps = with_statistics(maps).cast(torch.float64)
    flat = [tensor for group in parameters for tensor in group]
    return [*maps, flat, EPS, case.stride, "torch"]


@pytest.mark.parametrize("kind", ["normal", "offset", "negative", "strided"])
@by_case
def test_values_and_gradients_in_float64(case: Case, kind: str) -> None:
    maps, parameters = given(case, kind)
    results = fused(maps, parameters, case)
    expected = plain.residual_block(maps, parameters, EPS, case.stride)
    # An offset of 300 costs either of them some digits.
    assert_same_results(results, expected, leaves(maps, parameters), 1e-8 if kind == "offset" else 1e-11)


@pytest.mark.parametrize("used", [(0,), (3,), (1, 2), (0, 2, 3), (0, 1)], ids=lambda used: "-".join(map(str, used)))
@pytest.mark.parametrize("name", ["decoder", "running", "stem-gate"])
def test_results_may_be_unused(name: str, used: tuple[int, ...]) -> None:
    case = next(case for case in CASES if case.name == name)
    maps, parameters = given(case)
    results, expected = fused(maps, parameters, case), plain.residual_block(maps, parameters, EPS, case.stride)
    wanted = leaves(maps, parameters)
    if used == (0,) or 3 not in used:
        wanted = [x for x in wanted if all(x is not weight for weight in parameters.excitation)]
    assert_same_results([results[k] for k in used], [expected[k] for k in used], wanted, 1e-11)


@pytest.mark.parametrize("group", ResidualParameters._fields)
def test_gradients_of_some_parameters(group: str) -> None:
    case = next(case for case in CASES if case.name == "decoder")
    maps, parameters = given(case)
    wanted = [x for x in getattr(parameters, group) if x.requires_grad]
    for x in leaves(maps, parameters):
        x.requires_grad_(any(x is one for one in wanted))
    results, expected = fused(maps, parameters, case), plain.residual_block(maps, parameters, EPS, case.stride)
    used = slice(3, 4) if group == "excitation" else slice(0, 4)
    assert_same_results(list(results)[used], list(expected)[used], wanted, 1e-11)


def test_gradients_of_gates_alone() -> None:
    case = next(case for case in CASES if case.name == "decoder-gates")
    maps, parameters = given(case)
    for x in leaves(maps, parameters):
        x.requires_grad_(any(x is gate for gate in maps.gate))
    results, expected = fused(maps, parameters, case), plain.residual_block(maps, parameters, EPS, case.stride)
    assert_same_results(results, expected, maps.gate, 1e-11)


def test_batch_statistics_are_those_of_the_norms() -> None:
    case = next(case for case in CASES if case.name == "decoder")
    maps, parameters = given(case)
    batch = ops.residual_block(with_statistics(maps), parameters, EPS).batch
    x = plain.concatenated(maps)
    weight, bias = parameters.conv_side
    side = F.conv2d(x, weight, bias)
    for image, (mean, variance) in ((x, batch[0]), (side, batch[2])):
        torch.testing.assert_close(mean, image.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(variance, image.var(dim=(0, 2, 3), correction=0))


@by_case
def test_registration(case: Case) -> None:
    operation = torch.ops.fastresunet.residual_block.default
    assert set(opcheck(operation, tuple(as_leaves(arguments(case)))).values()) == {"SUCCESS"}


@pytest.mark.parametrize("everything", [True, False], ids=["everything", "not-everything"])
@by_case
def test_registration_of_the_gradient(case: Case, everything: bool) -> None:
    given_arguments = detached(arguments(case))
    *maps, parameters, eps, stride, _ = given_arguments
    operation = torch.ops.fastresunet.residual_block.default
    grads, kept = backward_arguments(operation, given_arguments, _KEPT, 4)
    options = (eps, stride, everything, [True, everything, everything], "torch")
    backward = (*grads[:3], grads[3] if everything else None, *maps, parameters, kept, *options)
    checked = opcheck(torch.ops.fastresunet.residual_block_backward.default, backward)
    assert set(checked.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"shapes": ((2, 4, 6, 9),)}, ValueError, "expected features of 5 channels, got 4"),
        ({"shapes": ((2, 5, 6, 9), (2, 4, 6, 9))}, ValueError, "expected features of 5 channels, got 9"),
        ({"stem": True, "shapes": ((2, 4, 6, 9),)}, ValueError, r"\(C, 5, 3, 3\)|\(C, 4, 3, 3\), got \(6, 5, 3, 3\)"),
        ({"stride": 3}, ValueError, "stride must be 1 or 2, got 3"),
        ({"upsample": (True,), "stride": 2}, ValueError, "upsampled: stride and dilation must be 1, got 2"),
        ({"dtype": torch.float32}, TypeError, "one dtype without autocast, got torch.float32 and torch.float64"),
        ({"dtype": torch.int64}, TypeError, "floating point, got torch.int64"),
    ],
    ids=["channels", "two-maps", "stem-channels", "stride", "upsampled-stride", "dtype", "integer"],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    shapes = change.get("shapes", ((2, 5, 6, 9),))
    upsample = change.get("upsample", (False,) * len(shapes))
    _, parameters = given(Case("plain", stem=change.get("stem", False)))
    maps = feature_maps(shapes, [False] * len(shapes), upsample)
    maps = maps._replace(data=[x.detach().to(change.get("dtype", torch.float64)) for x in maps.data])
    with pytest.raises(error, match=message):
        ops.residual_block(maps, parameters, EPS, change.get("stride", 1))


def test_a_second_derivative_is_refused() -> None:
    case = CASES[0]
    maps, parameters = given(case)
    loss = fused(maps, parameters, case)[0].square().sum()
    (gradient,) = torch.autograd.grad(loss, parameters.conv[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()
