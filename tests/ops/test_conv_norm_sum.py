"""The sum of normalised convolutions against plain PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from fastresunet import ops
from fastresunet.ops import Branch, Source
from fastresunet.ops.source import flatten
from tests.numerics import assert_as_close_as_reference, hurtful_image, relative_difference
from tests.ops import plain


def branch(inputs: int, out: int, kernel: int, dilation: int, running: bool) -> Branch:
    """Return a random float64 branch."""

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    statistics = (torch.randn(out, dtype=torch.float64), torch.rand(out, dtype=torch.float64) + 0.5) if running else ()
    return Branch(leaf(out, inputs, kernel, kernel), leaf(out), dilation, leaf(out), leaf(out), 1e-5, *statistics)


def sources(channels: tuple[int, ...], upsample: tuple[bool, ...], gated: bool) -> list[Source]:
    """Return random float64 sources, 8 x 6 pixels as read."""
    result = []
    for c, up in zip(channels, upsample, strict=True):
        size = (4, 3) if up else (8, 6)
        data = torch.randn(2, c, *size, dtype=torch.float64, requires_grad=True)
        affine = torch.randn(1, 2, c, dtype=torch.float64, requires_grad=True) if gated else None
        result.append(Source(data, affine, relu=False, upsample=up))
    return result


PARAMETERS = ("weight", "bias", "gamma", "beta")


def fused(inputs: list[Source], branches: list[Branch], *, stride: int) -> Tensor:
    """Return the sum alone, as the plain twin does."""
    return ops.conv_norm_sum(inputs, branches, stride=stride)[0]


# Channels and upsampling of the sources, kernel size, dilation of each branch, stride.
NETWORK_LAYOUTS = {
    "shortcut": ((4,), (False,), 1, (1,), 1),
    "shortcut-stride2": ((4,), (False,), 1, (1,), 2),
    "decoder-shortcut": ((4, 3), (True, False), 1, (1,), 1),
    "aspp": ((5,), (False,), 3, (1, 2, 9), 1),
}
LAYOUTS = {
    **NETWORK_LAYOUTS,
    "five-branches": ((5,), (False,), 3, (1, 2, 3, 4, 9), 1),
    "upsampled-branches": ((4, 3), (True, False), 3, (1, 1), 1),
    "pointwise-branches": ((4,), (False,), 1, (1, 1), 1),
}


@pytest.mark.parametrize("running", [False, True], ids=["batch-statistics", "running-statistics"])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients(layout: str, gated: bool, running: bool) -> None:
    channels, upsample, kernel, rates, stride = LAYOUTS[layout]
    inputs = sources(channels, upsample, gated)
    branches = [branch(sum(channels), 6, kernel, rate, running) for rate in rates]
    leaves = [x for s in inputs for x in (s.data, s.affine) if x is not None]
    leaves += [x for b in branches for x in (b.weight, b.bias, b.gamma, b.beta)]
    totals = ops.conv_norm_sum(inputs, branches, stride=stride)[0], plain.conv_norm_sum(inputs, branches, stride=stride)
    assert relative_difference(totals[0], totals[1]) <= 1e-12
    direction = torch.randn_like(totals[1])
    gradients = [torch.autograd.grad(total, leaves, direction) for total in totals]
    largest = max(float(g.abs().max()) for g in gradients[1])
    for value, expected in zip(*gradients, strict=True):
        assert float((value - expected).abs().max()) <= 1e-12 * largest


@pytest.mark.parametrize("kind", ["normal", "offset", "negative"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("layout", NETWORK_LAYOUTS)
def test_rounds_no_worse_than_plain_pytorch(layout: str, dtype: torch.dtype, kind: str) -> None:
    channels, upsample, kernel, rates, stride = LAYOUTS[layout]
    images = [
        hurtful_image((2, c, *((4, 3) if up else (8, 6))), kind) for c, up in zip(channels, upsample, strict=True)
    ]
    branches = [branch(sum(channels), 6, kernel, rate, running=False) for rate in rates]
    direction = torch.randn(2, 6, (8 - 1) // stride + 1, (6 - 1) // stride + 1, dtype=torch.float64) / 16
    results = []
    for function, kept in ((fused, dtype), (plain.conv_norm_sum, dtype), (plain.conv_norm_sum, torch.float64)):
        # Rounded to the low precision first, so that all start from the same numbers.
        data = [x.to(dtype).to(kept).requires_grad_() for x in images]
        cast = [
            replace(b, **{name: getattr(b, name).detach().to(dtype).to(kept).requires_grad_() for name in PARAMETERS})
            for b in branches
        ]
        inputs = [Source(x, upsample=up) for x, up in zip(data, upsample, strict=True)]
        total = function(inputs, cast, stride=stride)
        # In training the bias has no gradient but rounding.
        leaves = [*data, *(getattr(b, name) for b in cast for name in PARAMETERS if name != "bias")]
        results.append([total.detach(), *torch.autograd.grad(total, leaves, direction.to(total.dtype))])
    terms = sum(channels) * kernel**2 + 2 * 8 * 6
    for value, twin, exact in zip(*results, strict=True):
        # BatchNorm's gradient is a difference of sums over all pixels; PyTorch's kernels add them in another order.
        # Of two sources each one's result is rounded before they are added.
        assert_as_close_as_reference(value, twin, exact, dtype, terms, factor=4 * len(channels))


def test_gradcheck() -> None:
    (source,) = sources((3,), (False,), gated=True)
    branches = [branch(3, 4, 3, rate, running=False) for rate in (1, 2)]
    leaves = [source.data, source.affine, *(getattr(b, name) for b in branches for name in PARAMETERS)]

    def function(data: Tensor, affine: Tensor, *parameters: Tensor) -> Tensor:
        given = [
            Branch(weight, bias, b.dilation, gamma, beta, b.eps)
            for b, (weight, bias, gamma, beta) in zip(branches, (parameters[:4], parameters[4:]), strict=True)
        ]
        return fused([replace(source, data=data, affine=affine)], given, stride=1)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_the_statistics_are_those_of_the_branches() -> None:
    inputs = sources((5,), (False,), False)
    branches = [branch(5, 6, 3, rate, running=False) for rate in (1, 2)]
    _, mean, variance = ops.conv_norm_sum(inputs, branches)
    for k, b in enumerate(branches):
        v = plain.conv(inputs, b.weight, b.bias, dilation=b.dilation).data
        torch.testing.assert_close(mean[k], v.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(variance[k], v.var(dim=(0, 2, 3), correction=0))


def test_only_the_weight_needs_a_gradient() -> None:
    (source,) = sources((4,), (False,), True)
    assert source.affine is not None
    source = replace(source, data=source.data.detach(), affine=source.affine.detach())
    b = branch(4, 6, 1, 1, running=False)
    gradients = [
        torch.autograd.grad((total * torch.arange(6.0)[:, None, None]).sin().sum(), b.weight)[0]
        for total in (ops.conv_norm_sum([source], [b])[0], plain.conv_norm_sum([source], [b]))
    ]
    assert relative_difference(gradients[0], gradients[1]) <= 1e-12


@pytest.mark.parametrize("running", [False, True], ids=["batch-statistics", "running-statistics"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_registration(layout: str, running: bool) -> None:
    channels, upsample, kernel, rates, stride = LAYOUTS[layout]
    inputs = sources(channels, upsample, gated=True)
    branches = [branch(sum(channels), 6, kernel, rate, running) for rate in rates]
    arguments = (
        *flatten(inputs, torch.float64),
        [b.weight for b in branches],
        [b.bias for b in branches],
        stride,
        list(rates),
        [b.gamma for b in branches],
        [b.beta for b in branches],
        [b.eps for b in branches],
        [b.running_mean for b in branches if running],
        [b.running_var for b in branches if running],
        "torch",
    )
    assert set(opcheck(torch.ops.fastresunet.conv_norm_sum.default, arguments).values()) == {"SUCCESS"}


def test_mixed_dtypes_are_refused() -> None:
    double, single = branch(4, 6, 3, 1, running=False), branch(4, 6, 3, 2, running=False)
    single = replace(single, weight=single.weight.float())
    with pytest.raises(TypeError, match=r"branches\[1\].weight is torch.float32, expected torch.float64"):
        ops.conv_norm_sum(sources((4,), (False,), False), [double, single])


def test_mixed_statistics_are_refused() -> None:
    inputs = sources((4,), (False,), False)
    with pytest.raises(ValueError, match="1 of 2 have a running mean"):
        ops.conv_norm_sum(inputs, [branch(4, 6, 3, 1, running=True), branch(4, 6, 3, 2, running=False)])
