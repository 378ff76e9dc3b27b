"""Operands for kernels and for their PyTorch twins, and how the results are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fastresunet_kernels.config import Config
from fastresunet_kernels.convolution import conv
from fastresunet_kernels.gradients import conv_backward
from torch import Tensor

from fastresunet.ops import torch_backend
from fastresunet.ops.layout import channels_last
from fastresunet.ops.source import flatten
from tests.numerics import assert_as_close_as_reference
from tests.ops.cases import ConvCase, operands

plain_conv: Callable[..., Any] = torch_backend.conv


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


def check_forward(case: ConvCase, dtype: torch.dtype, config: Config | None = None) -> None:
    """Assert that the forward kernel computes what its twin does."""
    given = arguments(case, dtype)
    result = conv(*given[dtype], True, config)
    twin, exact = plain_conv(*given[dtype], True), plain_conv(*given[torch.float64], True)
    # Pool positions may differ where rounding ties; the gradient's test compares them by their use.
    count = 3 if case.epilogue == "pool" else 4
    terms = sum(case.channels) * case.kernel**2
    assert_close(result[:count], twin[:count], exact[:count], dtype, terms)


def check_backward(case: ConvCase, dtype: torch.dtype, config: Config | None = None) -> None:
    """Assert that the gradient kernels compute what their twin does."""
    given = arguments(case, dtype)
    written = plain_conv(*given[dtype], True)
    results: list[Any] = []
    implementations: list[tuple[torch.dtype, Callable[..., Any]]] = [
        (dtype, conv_backward),
        (dtype, torch_backend.conv_backward),
        (torch.float64, torch_backend.conv_backward),
    ]
    directions = [torch.randn_like(x) / 16 for x in written[:3]]
    for kind, function in implementations:
        data, affine, relu, upsample, weight, _, stride, dilation, residual, gate, gate_scale, pool = given[kind]
        output, _, _, kept = (x.to(kind) if x.is_floating_point() and x.ndim == 4 else x for x in written)
        statistics = torch.stack([written[1], directions[2], directions[1]])
        options: dict[str, Any] = {"config": config} if function is conv_backward else {}
        results.append(
            function(
                directions[0].to(kind),
                statistics.double() if kind == torch.float64 else statistics,
                output,
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
    assert_close(result, twin, exact, dtype, case.size[0] * case.size[1] * case.samples)
