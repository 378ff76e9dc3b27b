"""Tile sizes and launch options of the implicit GEMMs: the default by rule, and what may be chosen instead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import triton.language as tl

from .interpreter import INTERPRETED
from .rounding import next_power_of_2


class Layer(NamedTuple):
    """What a configuration is chosen by.

    Attributes:
        kind: which product of a convolution.
        dtype: of the features.
        inputs: channels of all sources.
        outputs: channels of the convolution's output.
        kernel_size: 1 or 3.
        stride: 1 or 2.
        dilation: spacing of the taps.
        upsample: a source is read at twice its resolution.
        pool: the result is pooled; of an input gradient, what is read was.
        pixels: output pixels of one sample before pooling.
    """

    kind: Literal["forward", "input_gradient", "weight_gradient"]
    dtype: torch.dtype
    inputs: int
    outputs: int
    kernel_size: int
    stride: int
    dilation: int
    upsample: bool
    pool: bool
    pixels: int


@dataclass(frozen=True)
class Config:
    """Tile of an implicit GEMM and how it is launched.

    Attributes:
        block_pixels: windows of pixels a program computes; of a weight gradient, windows a step sums over.
        block_in: channels of the reduction a step takes; of a weight gradient, input channels a program computes.
        block_out: output channels a program computes.
        window_rows: rows of a window where the operation leaves it open; they share the inputs between them.
        all_taps: weight gradient only: a program computes all taps, not one.
        warps: warps a program runs on.
        stages: loads in flight ahead of the product.
    """

    block_pixels: int
    block_in: int
    block_out: int
    window_rows: int = 1
    all_taps: bool = False
    warps: int = 4
    stages: int = 1


def rule(layer: Layer) -> Config:
    """Return the default configuration of a layer.

    The tables were chosen by what binds the compiled kernels (``docs/design.md``): thin layers share the inputs of a
    window, since applying the affine binds them; wide ones fill the registers with one large product.
    """
    table = _TABLES[layer.kind == "weight_gradient", layer.dtype.itemsize == 2]
    config = table[_situation(layer)][_width(layer)]
    reduced = layer.outputs if layer.kind == "input_gradient" else layer.inputs
    block_in = min(config.block_in, _at_least_16(reduced))
    # A thread should have 16 bytes of a tile, for vector loads.
    needed = 32 * config.warps * (16 // layer.dtype.itemsize) // block_in
    block_pixels = min(max(config.block_pixels, needed), _at_least_16(layer.pixels))
    return replace(config, block_pixels=block_pixels, block_in=block_in)


def on_warps(config: Config, warps: int) -> Config:
    """Return a configuration for another number of warps: each does as much as before, but at least 16 pixels."""
    return replace(config, block_pixels=max(16, config.block_pixels * warps // config.warps), warps=warps)


def candidates(layer: Layer) -> list[Config]:
    """Return what may be chosen for a layer by measuring, the default first: its table's tiles for fewer channels too,
    for 3x3 convolutions the default on 8 warps, and where a program computes one tap of a 3x3 weight's gradient the
    default with two stages in place of one, or one in place of two.
    """
    default, situation = rule(layer), _situation(layer)
    row = _TABLES[layer.kind == "weight_gradient", layer.dtype.itemsize == 2][situation]
    tiles = [row[width] for width in _WIDTHS if width <= _width(layer)]
    more = [replace(default, warps=8)] if situation in ("3x3", "3x3 gradient") else []
    if layer.kind == "weight_gradient" and layer.kernel_size == 3 and not default.all_taps:
        # Loads in flight hide their latency, but cross shared memory once more: which binds is for a GPU to say.
        more.append(replace(default, stages=3 - default.stages))
    return list(dict.fromkeys([default, *tiles, *more]))


def _width(layer: Layer) -> int:
    """Return the column of a table: the channels that are produced, fewer where the products of few inputs are thin."""
    produced = layer.inputs if layer.kind == "input_gradient" else layer.outputs
    if layer.kind == "weight_gradient":
        produced = min(produced, 2 * _at_least_16(layer.inputs))
    return next((width for width in _WIDTHS if produced <= width), _WIDTHS[-1])


def _situation(layer: Layer) -> str:
    """Return the row of a table: what the operation leaves open about a tile."""
    if layer.kind == "input_gradient" and layer.stride == 2:
        return "window"
    if layer.kernel_size == 1:
        return "upsampled 1x1" if layer.upsample and layer.kind == "forward" else "1x1"
    if layer.kind == "input_gradient":
        scattered = layer.dilation > 1 or layer.pool
        return "spread" if layer.upsample else "scattered gradient" if scattered else "3x3 gradient"
    if layer.upsample or (layer.pool and layer.kind == "forward"):
        return "window"
    if layer.stride == 2 or layer.dilation > 1:
        return "scattered"
    return "image" if layer.inputs < 16 and layer.kind == "forward" else "3x3"


def _at_least_16(count: int) -> int:
    return max(16, next_power_of_2(count))


# Output channels that a column of a table is for; the last one also for more.
_WIDTHS = (16, 32, 64, 128)


def _row(*configs: Config) -> dict[int, Config]:
    return dict(zip(_WIDTHS, configs, strict=True))


# 3x3: stride 1 (its window is open); 3x3 gradient: the same for an input gradient, whose operand is put together as it
# is read and which may have a side's accumulators; image: few channels, loaded one by one; scattered: neighbours share
# no inputs, or reading them binds; scattered gradient: the same for an input gradient; spread: an input gradient of an
# upsampled source; window: 2x2, given.
# Triton lays the warps of consecutive products along the pixels, at least 16 for each.
_HALF = {
    "3x3": _row(
        Config(64, 16, 16, window_rows=4),
        Config(64, 16, 32, window_rows=4),
        Config(64, 16, 64, window_rows=2),
        Config(128, 64, 64),
    ),
    "3x3 gradient": _row(
        Config(64, 16, 16, window_rows=4),
        Config(64, 16, 32, window_rows=2),
        Config(64, 16, 16, window_rows=4),
        Config(128, 64, 64),
    ),
    "image": _row(Config(64, 16, 16, window_rows=4), Config(64, 16, 32), Config(64, 16, 32), Config(64, 16, 32)),
    "scattered": _row(
        Config(128, 16, 16, window_rows=2), Config(64, 16, 32, window_rows=2), Config(64, 32, 64), Config(64, 32, 64)
    ),
    "scattered gradient": _row(
        Config(128, 16, 16, window_rows=2), Config(64, 16, 32, window_rows=2), Config(64, 32, 64), Config(64, 16, 64)
    ),
    "spread": _row(Config(128, 16, 16), Config(64, 16, 32), Config(64, 16, 64), Config(64, 16, 64)),
    "window": _row(Config(64, 16, 16), Config(64, 16, 32), Config(64, 16, 32), Config(64, 16, 32)),
    "1x1": _row(Config(128, 32, 16), Config(128, 32, 32), Config(64, 64, 64), Config(64, 32, 128)),
    "upsampled 1x1": _row(Config(64, 16, 16), Config(64, 16, 32), Config(64, 32, 32), Config(64, 32, 32)),
}
_SINGLE = {
    "3x3": _row(
        Config(64, 16, 16, window_rows=2), Config(32, 16, 32, window_rows=2), Config(64, 32, 64), Config(64, 32, 64)
    ),
    "3x3 gradient": _row(Config(64, 16, 16, window_rows=2), Config(64, 16, 32), Config(64, 32, 32), Config(64, 16, 64)),
    "image": _row(Config(64, 16, 16), Config(64, 16, 32), Config(64, 16, 32), Config(64, 16, 32)),
    "scattered": _row(Config(128, 16, 16), Config(64, 16, 32), Config(64, 16, 64), Config(64, 16, 64)),
    "scattered gradient": _row(Config(128, 16, 16), Config(64, 16, 16), Config(64, 16, 32), Config(64, 32, 32)),
    "spread": _row(Config(128, 16, 16), Config(64, 16, 32), Config(64, 16, 64), Config(64, 16, 64)),
    "window": _row(Config(32, 16, 16), Config(32, 16, 16), Config(32, 16, 16), Config(32, 16, 16)),
    "1x1": _row(Config(64, 32, 16), Config(64, 32, 32), Config(64, 32, 64), Config(64, 32, 64)),
    "upsampled 1x1": _row(Config(64, 16, 16), Config(64, 16, 16), Config(64, 16, 16), Config(64, 16, 16)),
}
_HALF_WEIGHT_GRADIENT = {
    "3x3": _row(
        Config(16, 16, 16, window_rows=4, all_taps=True, warps=1),
        Config(32, 16, 32, window_rows=4, all_taps=True, warps=2),
        Config(32, 16, 64, window_rows=2, all_taps=True),
        Config(64, 64, 128),
    ),
    "scattered": _row(
        Config(64, 16, 16, all_taps=True, warps=1),
        Config(32, 16, 32, window_rows=2, all_taps=True, warps=2),
        Config(32, 16, 64, all_taps=True),
        Config(32, 64, 128),
    ),
    "window": _row(
        Config(32, 16, 16, all_taps=True, warps=1),
        Config(64, 64, 32, warps=2, stages=2),
        Config(64, 64, 64, stages=2),
        Config(64, 64, 64, stages=2),
    ),
    "1x1": _row(Config(128, 32, 16), Config(128, 32, 32), Config(64, 64, 64), Config(32, 64, 128)),
}
_SINGLE_WEIGHT_GRADIENT = {
    "3x3": _row(
        Config(16, 16, 16, window_rows=2, all_taps=True, warps=2),
        Config(16, 16, 32, window_rows=4, all_taps=True, warps=2),
        Config(16, 16, 64, all_taps=True),
        Config(16, 64, 64),
    ),
    "scattered": _row(
        Config(16, 16, 16, all_taps=True, warps=2),
        Config(16, 16, 32, all_taps=True, warps=2),
        Config(16, 16, 64, all_taps=True),
        Config(16, 64, 64),
    ),
    "window": _row(
        Config(16, 16, 16, all_taps=True, warps=2),
        Config(16, 16, 32, all_taps=True),
        Config(16, 64, 64),
        Config(16, 64, 64),
    ),
    "1x1": _row(Config(32, 32, 16), Config(32, 32, 32), Config(16, 64, 64), Config(16, 64, 64)),
}
_TABLES = {
    (False, True): _HALF,
    (False, False): _SINGLE,
    (True, True): _HALF_WEIGHT_GRADIENT,
    (True, False): _SINGLE_WEIGHT_GRADIENT,
}


def arithmetic(dtype: torch.dtype) -> dict[str, Any]:
    """Return the kernels' arithmetic options for operands of ``dtype``.

    float32 products follow ``torch.backends.cudnn.allow_tf32``, as PyTorch's own convolutions do. Packed arithmetic on
    two 16-bit elements is NVIDIA's.
    """
    tf32 = dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    half = dtype in (torch.bfloat16, torch.float16)
    return {
        "ACCUMULATE": accumulation(dtype),
        "PRECISION": "tf32" if tf32 else "ieee",
        "PACKED": half and not INTERPRETED and torch.version.hip is None,
        "WIDEN": half and INTERPRETED,
    }


def accumulation(dtype: torch.dtype) -> tl.dtype:
    """Return the dtype of sums and vectors for features of ``dtype``."""
    return tl.float64 if dtype == torch.float64 else tl.float32
