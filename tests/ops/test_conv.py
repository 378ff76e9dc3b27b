"""The fused convolution against its plain twin: values, gradients, rounding, registration and error messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from fastresunet import ops
from fastresunet.ops.source import flatten
from tests.numerics import assert_error_explained, largest_error, relative_difference, rounding
from tests.ops import plain
from tests.ops.cases import CASES, ConvCase, Operands, operands

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def run(conv: Any, x: Operands) -> tuple[list[Tensor], list[Tensor]]:
    """Return outputs and gradients for a fixed random direction."""
    outputs = list(conv(x.sources, x.weight, x.bias, **x.options))
    generator = torch.Generator().manual_seed(1)
    directions = [(torch.randn(o.shape, generator=generator, dtype=torch.float64) / 16).to(o.dtype) for o in outputs]
    gradients = torch.autograd.grad(outputs, x.leaves, directions)
    return [o.detach() for o in outputs], list(gradients)


def check_rounding(conv: Any, name: str, dtype: torch.dtype, kind: str, factor: float) -> None:
    """Assert that outputs and gradients are as exact as the plain twin's, but for ``factor``.

    A sum of a few numbers can be exact by luck, and on which machine it is depends on the order in which its libraries
    add: the twin's error is the largest of several draws.
    """
    case = next(case for case in CASES if case.name == name)
    # All dtypes start from the same numbers, those of the lowest precision.
    draws = [operands(case, kind).to(dtype).to(torch.float64) for _ in range(5)]
    results = run(conv, draws[0].to(dtype))
    twins = [run(plain.conv, draw.to(dtype)) for draw in draws]
    exacts = [run(plain.conv, draw) for draw in draws]
    terms = sum(case.channels) * case.kernel**2 + case.size[0] * case.size[1]
    for group, values in enumerate(results):
        for i, value in enumerate(values):
            pairs = zip(twins, exacts, strict=True)
            reference_error = max(largest_error(twin[group][i], exact[group][i]) for twin, exact in pairs)
            assert_error_explained(value, exacts[0][group][i], reference_error, rounding(dtype, terms), factor)


@by_case
def test_values_and_gradients_in_float64(case: ConvCase) -> None:
    x = operands(case)
    results, expected = run(ops.conv, x), run(plain.conv, x)
    for group, reference in zip(results, expected, strict=True):
        for value, exact in zip(group, reference, strict=True):
            assert relative_difference(value, exact) <= 1e-12


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.size[0] * c.size[1] <= 64 and max(c.channels) <= 8], ids=lambda case: case.name
)
def test_gradcheck(case: ConvCase) -> None:
    x = operands(case)

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        iterator = iter(leaves)
        weight = next(iterator)
        bias = None if x.bias is None else next(iterator)
        options: dict[str, Any] = {k: next(iterator) if isinstance(v, Tensor) else v for k, v in x.options.items()}
        sources = [
            ops.Source(next(iterator), None if s.affine is None else next(iterator), s.relu, s.upsample)
            for s in x.sources
        ]
        data, mean, m2 = ops.conv(sources, weight, bias, **options)
        assert mean is not None
        assert m2 is not None
        return data, mean, m2

    assert torch.autograd.gradcheck(function, x.leaves, fast_mode=True)


@pytest.mark.parametrize("kind", ["normal", "offset", "negative", "ties", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["plain", "gate", "pool", "residual", "decoder"])
def test_rounds_no_worse_than_the_plain_twin(name: str, dtype: torch.dtype, kind: str) -> None:
    check_rounding(ops.conv, name, dtype, kind, factor=2)


def test_statistics_of_a_large_mean_do_not_cancel() -> None:
    data = 1000 + torch.randn(2, 4, 32, 32)
    mean, m2 = ops.channel_statistics(data)
    exact = data.double()
    torch.testing.assert_close(mean.double(), exact.mean(dim=(2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(m2.double(), exact.var(dim=(2, 3), correction=0) * 1024, rtol=1e-5, atol=0)


def test_statistics_gradcheck() -> None:
    x = torch.randn(2, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.channel_statistics, (x,))


def test_ties_in_the_maximum_send_the_gradient_to_the_first_pixel() -> None:
    data = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    ops.conv([ops.Source(data)], weight, pool=True, statistics=False).data.sum().backward()
    assert data.grad is not None
    expected = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    expected[:, :, ::2, ::2] = 1
    assert torch.equal(data.grad, expected)


@pytest.mark.parametrize(
    "needed", ["weight", "bias", "data", "affine", "residual"], ids=lambda needed: f"only-{needed}"
)
def test_partial_gradients(needed: str) -> None:
    case = next(case for case in CASES if case.name == "residual")
    x = operands(case)
    leaf = {
        "weight": x.weight,
        "bias": x.bias,
        "data": x.sources[0].data,
        "affine": x.sources[0].affine,
        "residual": x.options["residual"],
    }[needed]
    assert isinstance(leaf, Tensor)
    for other in x.leaves:
        other.requires_grad_(other is leaf)
    gradients = [
        torch.autograd.grad(conv(x.sources, x.weight, x.bias, **x.options).data.square().sum(), leaf)[0]
        for conv in (ops.conv, plain.conv)
    ]
    assert relative_difference(gradients[0], gradients[1]) <= 1e-12


@pytest.mark.parametrize("statistics", [True, False], ids=["statistics", "no-statistics"])
@pytest.mark.parametrize("name", ["plain", "residual", "gate", "pool", "decoder", "image", "pointwise-stride2"])
def test_registration(name: str, statistics: bool) -> None:
    x = operands(next(case for case in CASES if case.name == name))
    options = [x.options.get(key) for key in ("stride", "dilation", "residual", "gate", "gate_scale", "pool")]
    arguments = (*flatten(x.sources, torch.float64), x.weight, x.bias, *options, statistics, "torch")
    assert set(opcheck(torch.ops.fastresunet.conv.default, arguments).values()) == {"SUCCESS"}


def test_registration_of_the_statistics() -> None:
    x = torch.randn(2, 3, 5, 4, requires_grad=True).contiguous(memory_format=torch.channels_last)
    assert set(opcheck(torch.ops.fastresunet.channel_statistics.default, (x,)).values()) == {"SUCCESS"}


def test_padding_stays_zero_after_the_affine() -> None:
    source = ops.Source(torch.zeros(1, 1, 3, 3), torch.tensor([[[0.0]], [[1.0]], [[5.0]]]), relu=True)
    output = ops.conv([source], torch.ones(1, 1, 3, 3)).data
    assert output[0, 0].tolist() == [[20, 30, 20], [30, 45, 30], [20, 30, 20]]


IMAGE, WEIGHT = torch.zeros(2, 4, 6, 6), torch.zeros(5, 4, 3, 3)


@pytest.mark.parametrize(
    ("sources", "weight", "options", "error", "message"),
    [
        ([], WEIGHT, {}, ValueError, "at least one source"),
        ([ops.Source(IMAGE[0])], WEIGHT, {}, ValueError, r"\(N, C, H, W\), got \(4, 6, 6\)"),
        ([ops.Source(IMAGE.long())], WEIGHT, {}, TypeError, "floating point, got torch.int64"),
        ([ops.Source(IMAGE)], WEIGHT[:, :3], {}, ValueError, r"\(C, 4, 1, 1\) or \(C, 4, 3, 3\), got \(5, 3, 3, 3\)"),
        ([ops.Source(IMAGE)], torch.zeros(5, 4, 5, 5), {}, ValueError, r"got \(5, 4, 5, 5\)"),
        ([ops.Source(IMAGE, torch.zeros(3, 2, 5))], WEIGHT, {}, ValueError, r"\(3, 2, 4\), got \(3, 2, 5\)"),
        ([ops.Source(IMAGE), ops.Source(IMAGE[:, :, :3])], WEIGHT, {}, ValueError, "2 x 3 x 6 .* expected 2 x 6 x 6"),
        ([ops.Source(IMAGE, upsample=True)], WEIGHT, {"stride": 2}, ValueError, "upsampled: stride and dilation"),
        ([ops.Source(IMAGE)], WEIGHT, {"stride": 3}, ValueError, "stride must be 1 or 2, got 3"),
        ([ops.Source(IMAGE)], WEIGHT, {"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
        ([ops.Source(IMAGE)], WEIGHT, {"bias": torch.zeros(4)}, ValueError, r"bias must have shape \(5,\), got \(4,\)"),
        ([ops.Source(IMAGE)], WEIGHT, {"residual": IMAGE}, ValueError, r"residual must have shape \(2, 5, 6, 6\)"),
        ([ops.Source(IMAGE)], WEIGHT, {"gate_scale": torch.zeros(2, 5)}, ValueError, "None without a gate"),
        (
            [ops.Source(IMAGE)],
            WEIGHT,
            {"pool": True, "residual": torch.zeros(2, 5, 6, 6)},
            ValueError,
            "only one of pool, residual and gate",
        ),
        ([ops.Source(IMAGE[:, :, :1])], WEIGHT, {"pool": True}, ValueError, "at least 2 x 2 pixels, got 1 x 6"),
        ([ops.Source(IMAGE.to("meta"))], WEIGHT, {}, ValueError, "is on meta, the weight on cpu"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value[:20],
)
def test_bad_arguments(
    sources: list[ops.Source], weight: Tensor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.conv(sources, weight, **options)
