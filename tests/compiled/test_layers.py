"""Layers of the default network at their real sizes (256x256 images), compiled, with the default configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastresunet_kernels.normalized_sum import conv_norm_sum, conv_norm_sum_backward

from fastresunet.ops import torch_backend
from fastresunet.ops.layout import channels_last
from tests.compiled.twins import assert_close, check_backward, check_forward
from tests.ops.cases import ConvCase

LAYERS = [
    ConvCase("c1.c1.0", channels=(3,), out=16, size=(256, 256), samples=1, affine=False),
    ConvCase("c1.c1.3", channels=(16,), out=16, size=(256, 256), samples=1, epilogue="residual"),
    ConvCase("c2.c1.2", channels=(16,), out=32, size=(256, 256), samples=1, stride=2),
    ConvCase("c4.c1.2", channels=(64,), out=128, size=(64, 64), samples=1, stride=2),
    ConvCase("d2.a1.g_conv", channels=(32,), out=64, size=(128, 128), samples=1, epilogue="pool"),
    ConvCase("d3.a1.gc_conv", channels=(64,), out=64, size=(128, 128), samples=1, epilogue="gate"),
    ConvCase("d3.r1.c1.2", channels=(64, 16), out=32, size=(256, 256), samples=1, upsample=(True, False)),
    ConvCase("d1.r1.c1.5", channels=(128,), out=128, size=(64, 64), samples=1, epilogue="residual"),
    ConvCase("output", channels=(16,), out=1, size=(256, 256), samples=1, kernel=1, affine=False),
]


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_forward(architecture: int, case: ConvCase) -> None:
    check_forward(case, torch.bfloat16)


@pytest.mark.parametrize("case", LAYERS[1::3], ids=lambda case: case.name)
def test_backward(architecture: int, case: ConvCase) -> None:
    check_backward(case, torch.bfloat16)


SUMS = {
    "b1": ((128,), (False,), 256, 32, 3, (1, 6, 12, 18), 1),
    "aspp": ((32,), (False,), 16, 256, 3, (1, 6, 12, 18), 1),
    "c3.c2": ((32,), (False,), 64, 128, 1, (1,), 2),
    "d3.r1.c2": ((64, 16), (True, False), 32, 256, 1, (1,), 1),
}


@pytest.mark.parametrize("layer", SUMS)
def test_sum_of_normalised_convolutions(architecture: int, layer: str) -> None:
    channels, upsample, out, size, kernel, dilation, stride = SUMS[layer]
    data = [
        channels_last(torch.randn(1, c, *[size // (2 if up else 1)] * 2).bfloat16())
        for c, up in zip(channels, upsample, strict=True)
    ]
    scales = [torch.rand(1, 1, c) for c in channels]
    weight = [torch.randn(out, sum(channels), kernel, kernel).div_(sum(channels) ** 0.5) for _ in dilation]
    bias, gamma, beta = torch.randn(3, len(dilation), out)

    def results(forward: Callable[..., Any], backward: Callable[..., Any], dtype: torch.dtype) -> list[Any]:
        vectors = torch.promote_types(dtype, torch.float32)
        images = [x.to(dtype) for x in data]
        # The twin in float64 has the weights that the kernels see.
        weights = [w.bfloat16().to(vectors) for w in weight]
        read = (images, [s.to(vectors) for s in scales], [False] * len(data), list(upsample))
        branches = (weights, bias.to(vectors), stride, list(dilation), gamma.to(vectors))
        eps = [1e-5] * len(dilation)
        total, mean, variance = forward(*read, *branches, beta.to(vectors), eps, None, None)
        grad = direction.to(dtype)
        gradients = backward(grad, *read, *branches, eps, mean, variance, True, True, True)
        return [total, mean, variance, *gradients]

    height = (size - 1) // stride + 1
    direction = channels_last(torch.randn(1, out, height, height))
    value = results(conv_norm_sum, conv_norm_sum_backward, torch.bfloat16)
    twin = results(torch_backend.conv_norm_sum, torch_backend.conv_norm_sum_backward, torch.bfloat16)
    exact = results(torch_backend.conv_norm_sum, torch_backend.conv_norm_sum_backward, torch.float64)
    assert_close(value, twin, exact, torch.bfloat16, sum(channels) * kernel**2)
