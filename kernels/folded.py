"""Launchers of the folded network's convolutions, with the schemas of ``folded_conv`` and ``folded_excited_conv``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .config import Config
from .convolution import Side, Tiles, convolve_packed
from .excitation import launch_excitation


def folded_conv(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor,
    stride: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    sign: Tensor | None,
    config: Config | None = None,
) -> Tensor:
    """Return the convolution; arguments are those of the operation."""
    operands = (data, affine, relu, upsample, weight, bias, stride, residual, gate, gate_scale, sign)
    return _convolve(*operands, None, False, config)[0]


def folded_excited_conv(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    weight: Tensor,
    bias: Tensor,
    side: list[Tensor],
    side_affine: list[Tensor],
    side_upsample: list[bool],
    side_weight: Tensor,
    side_stride: int,
    weight1: Tensor,
    weight2: Tensor,
    scale: Tensor,
    shift: Tensor,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return convolution, gate and the readers' affines; arguments are those of the operation."""
    beside = Side(side, side_affine, side_upsample, side_weight, side_stride)
    operands = (data, affine, relu, [False] * len(data), weight, bias, 1, None, None, None, None)
    output, tiles = _convolve(*operands, beside, True, config)
    assert tiles is not None
    gate = tiles.mean.new_empty(output.shape[:2])
    vectors = tiles.mean.new_empty((len(scale), 3, *output.shape[:2]))
    readers = (scale, shift, vectors) if len(scale) else (None, None, None)
    launch_excitation(tiles.mean, tiles.count, tiles.m2, weight1, weight2, None, None, gate, *readers)
    return output, gate, vectors


def _convolve(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor,
    stride: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    sign: Tensor | None,
    side: Side | None,
    statistics: bool,
    config: Config | None,
) -> tuple[Tensor, Tiles | None]:
    options: dict[str, Any] = {"keep": False, "sign": sign, "side": side, "config": config}
    operands = (data, affine, relu, upsample, weight, (bias.shape[0], 3), bias, stride, 1, residual, gate, gate_scale)
    output, _, tiles = convolve_packed(*operands, sign is not None, statistics, **options)
    return output, tiles
