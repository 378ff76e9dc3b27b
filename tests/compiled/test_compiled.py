"""The kernels' compiled code, with bounds checks, against the PyTorch backend in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastresunet_kernels.config import Config
from fastresunet_kernels.convolution import conv
from fastresunet_kernels.gradients import conv_backward
from torch import Tensor

from fastresunet.ops import torch_backend
from fastresunet.ops.layout import channels_last
from fastresunet.ops.source import flatten
from tests.numerics import assert_as_close_as_reference
from tests.ops.cases import CASES, ConvCase, operands

plain_conv: Callable[..., Any] = torch_backend.conv

CONFIGS = {
    "default": None,
    "2-warps": Config(block_pixels=32, block_in=16, block_out=16, warps=2, stages=2),
    "8-warps": Config(block_pixels=128, block_in=32, block_out=32, warps=8, stages=3),
}
# The network's kinds of convolution, and all other cases with the default configuration.
LAYERS = ("plain", "image", "stride2", "pointwise", "residual", "gate", "pool", "decoder")
CHOSEN = [
    (case, config)
    for case in CASES
    for config in CONFIGS
    if case.name != "upsample-pool" and (config == "default" or case.name in ("plain", "decoder", "pool", "stride2"))
]


def readable(value: ConvCase | str) -> str:
    """Return the name of a case or configuration."""
    return value.name if isinstance(value, ConvCase) else value


def arguments(case: ConvCase, dtype: torch.dtype) -> dict[torch.dtype, tuple[Any, ...]]:
    """Return the operation's arguments rounded to ``dtype``, and the same numbers in float64."""
    rounded = operands(case).to(dtype)
    result = {}
    for kind, x in ((dtype, rounded), (torch.float64, rounded.to(torch.float64))):
        options = [x.options.get(key) for key in ("stride", "dilation", "residual", "gate", "gate_scale", "pool")]
        options = [o.detach() if isinstance(o, Tensor) else o for o in options]
        options = [channels_last(o) if isinstance(o, Tensor) and o.ndim == 4 else o for o in options]
        data, affine, relu, upsample = flatten(x.sources, kind)
        images, vectors = [d.detach() for d in data], [a.detach() for a in affine]
        bias = None if x.bias is None else x.bias.detach()
        result[kind] = (images, vectors, relu, upsample, x.weight.detach(), bias, *options)
    return result


def assert_close(results: Any, twins: Any, exacts: Any, dtype: torch.dtype, terms: int) -> None:
    """Hold every result against its twin in the same dtype and in float64; results may be nested in lists."""
    for result, twin, exact in zip(results, twins, exacts, strict=True):
        if isinstance(result, list):
            assert_close(result, twin, exact, dtype, terms)
        elif exact.numel() and exact.is_floating_point():
            assert_as_close_as_reference(result, twin, exact, dtype, terms)


@pytest.mark.parametrize(("case", "config"), CHOSEN, ids=readable)
def test_forward(architecture: int, case: ConvCase, config: str) -> None:
    given = arguments(case, torch.bfloat16)
    result = conv(*given[torch.bfloat16], True, CONFIGS[config])
    twin, exact = plain_conv(*given[torch.bfloat16], True), plain_conv(*given[torch.float64], True)
    # Pool positions may differ where rounding ties; the gradient's test compares them by their use.
    count = 3 if case.epilogue == "pool" else 4
    assert_close(result[:count], twin[:count], exact[:count], torch.bfloat16, sum(case.channels) * case.kernel**2)


@pytest.mark.parametrize(("case", "config"), [pair for pair in CHOSEN if pair[0].name in LAYERS], ids=readable)
def test_backward(architecture: int, case: ConvCase, config: str) -> None:
    given = arguments(case, torch.bfloat16)
    written = plain_conv(*given[torch.bfloat16], True)
    results: list[Any] = []
    implementations: list[tuple[torch.dtype, Callable[..., Any]]] = [
        (torch.bfloat16, conv_backward),
        (torch.bfloat16, torch_backend.conv_backward),
        (torch.float64, torch_backend.conv_backward),
    ]
    directions = [torch.randn_like(x) / 16 for x in written[:3]]
    for dtype, function in implementations:
        data, affine, relu, upsample, weight, _, stride, dilation, residual, gate, gate_scale, pool = given[dtype]
        output, mean, _, kept = (x.to(dtype) if x.is_floating_point() and x.ndim == 4 else x for x in written)
        vectors = (x.double() if dtype == torch.float64 else x for x in directions[1:])
        options: dict[str, Any] = {"config": CONFIGS[config]} if function is conv_backward else {}
        results.append(
            function(
                directions[0].to(dtype),
                *vectors,
                output,
                mean.double() if dtype == torch.float64 else mean,
                kept,
                data,
                affine,
                relu,
                upsample,
                weight,
                stride,
                dilation,
                gate,
                gate_scale,
                pool,
                residual is not None,
                True,
                True,
                **options,
            )
        )
    result, twin, exact = results
    assert_close(result, twin, exact, torch.bfloat16, case.size[0] * case.size[1] * case.samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", ["plain", "decoder"])
def test_other_dtypes(architecture: int, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    case = next(case for case in CASES if case.name == name)
    given = arguments(case, dtype)
    result = conv(*given[dtype], True)
    twin, exact = plain_conv(*given[dtype], True), plain_conv(*given[torch.float64], True)
    assert_close(result, twin, exact, dtype, sum(case.channels) * case.kernel**2)
