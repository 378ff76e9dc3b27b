"""Every configuration that can be selected, compiled, against the PyTorch backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from fastresunet_kernels.config import Config, Layer, candidates
from fastresunet_kernels.output_gradient import OutputGradient
from fastresunet_kernels.source_gradients import source_gradients

from fastresunet.ops import torch_backend
from tests.compiled.twins import arguments, check_forward
from tests.numerics import assert_as_close_as_reference
from tests.ops.cases import ConvCase

# Blocks of channels and windows that are complete in some configurations and not in others.
CASE = ConvCase("configured", channels=(48,), out=80, size=(10, 14), samples=1)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


SITUATIONS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "dilation": 6},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "upsample": True},
    {"kernel_size": 3, "pool": True},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "upsample": True},
]


def selectable(kind: Literal["forward", "input_gradient", "weight_gradient"], dtype: torch.dtype) -> dict[Config, int]:
    """Return all configurations of a kind of product, and the kernel size they are for."""
    usual: dict[str, Any] = {"stride": 1, "dilation": 1, "upsample": False, "pool": False}
    found: dict[Config, int] = {}
    for channels, situation in itertools.product(((3, 16), (16, 16), (32, 32), (64, 64), (128, 128)), SITUATIONS):
        for config in candidates(Layer(kind, dtype, *channels, pixels=65536, **{**usual, **situation})):
            found[config] = max(situation["kernel_size"], found.get(config, 0))
    return found


def described(config: Config) -> str:
    """Return a readable id."""
    parts = [f"{config.block_pixels}x{config.block_in}x{config.block_out}", f"{config.warps}warps"]
    parts += [f"{config.window_rows}rows"] * (config.window_rows > 1) + ["alltaps"] * config.all_taps
    return "-".join([*parts, f"{config.stages}stages"] if config.stages > 1 else parts)


def runs(kind: Literal["forward", "input_gradient", "weight_gradient"]) -> list[Any]:
    return [
        pytest.param(dtype, config, kernel_size, id=f"{name}-{described(config)}-{kernel_size}x{kernel_size}")
        for name, dtype in DTYPES.items()
        for config, kernel_size in selectable(kind, dtype).items()
    ]


@pytest.mark.parametrize(("dtype", "config", "kernel_size"), runs("forward"))
def test_forward(
    architecture: int, dtype: torch.dtype, config: Config, kernel_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check_forward(replace(CASE, kernel=kernel_size), dtype, config)


@pytest.mark.parametrize(("dtype", "config", "kernel_size"), runs("input_gradient"))
def test_input_gradient(
    architecture: int, dtype: torch.dtype, config: Config, kernel_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    given = arguments(replace(CASE, kernel=kernel_size), dtype)
    data, affine, relu, upsample, weight = given[dtype][:5]
    direction = torch.randn(CASE.output_shape).to(dtype).contiguous(memory_format=torch.channels_last)
    raw = OutputGradient(direction, CASE.size)
    wanted = (True, False)
    (grad_data,), (grad_affine,), *_ = source_gradients(
        raw, data, affine, relu, upsample, [weight], 1, [1], *wanted, config=config
    )
    for value, twin, exact in zip((grad_data, grad_affine), *gradients(direction, given, dtype, (3, 4)), strict=True):
        assert_as_close_as_reference(value, twin, exact, dtype, CASE.out * kernel_size**2)


@pytest.mark.parametrize(("dtype", "config", "kernel_size"), runs("weight_gradient"))
def test_weight_gradient(
    architecture: int, dtype: torch.dtype, config: Config, kernel_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    given = arguments(replace(CASE, kernel=kernel_size), dtype)
    data, affine, relu, upsample, weight = given[dtype][:5]
    direction = torch.randn(CASE.output_shape).to(dtype).contiguous(memory_format=torch.channels_last)
    raw = OutputGradient(direction, CASE.size)
    wanted = (False, True)
    value = source_gradients(raw, data, affine, relu, upsample, [weight], 1, [1], *wanted, config=config).weight
    (twin,), (exact,) = gradients(direction, given, dtype, (5,))
    assert_as_close_as_reference(value, twin, exact, dtype, CASE.size[0] * CASE.size[1])


def gradients(
    direction: torch.Tensor, given: dict[torch.dtype, tuple[Any, ...]], dtype: torch.dtype, wanted: tuple[int, ...]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return chosen results of the twin in ``dtype`` and in float64; lists have one element."""
    plain: Callable[..., Any] = torch_backend.conv_backward
    results = []
    for kind in (dtype, torch.float64):
        nothing = torch.empty(0, dtype=kind)
        options = (1, 1, None, None, False, False, True, True)
        full = plain(direction.to(kind), None, nothing, nothing, *given[kind][:5], *options)
        chosen = [full[k] for k in wanted]
        results.append([x[0] if isinstance(x, list) else x for x in chosen])
    return results[0], results[1]
