"""Launcher of the fused convolution, with the schema of ``fastresunet::conv``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .choice import choose
from .config import Config, Layer, arithmetic
from .forward import forward_kernel
from .launch import launch
from .pack import pack_weights
from .rounding import cdiv
from .statistics import merge_statistics
from .supported import check_supported


class Side(NamedTuple):
    """A 1x1 convolution added to another: one or two sources read through scales alone, or as they are.

    Attributes:
        data: sources (N, C, H, W).
        affine: (1, N, C) of each, or empty.
        upsample: whether each is read at twice its resolution.
        weight: (outputs, inputs of all sources) in any floating dtype.
        stride: of all sources; 1 with an upsampled one.
    """

    data: list[Tensor]
    affine: list[Tensor]
    upsample: list[bool]
    weight: Tensor
    stride: int


class Tiles(NamedTuple):
    """Statistics of what was written, tile by tile: counts (N, tiles), means and M2 (N, tiles, C)."""

    count: Tensor
    mean: Tensor
    m2: Tensor


def conv(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    dilation: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    pool: bool,
    statistics: bool,
    packed: Tensor | None = None,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, mean, M2 and what the write keeps for backward (pool positions, or the output before the gate).

    Arguments are those of the operation, and the weight from ``pack_weights`` if it is there already; images are
    channels-last; at most two sources, not both upsampled and pooled.
    """
    output, kept, tiles = convolve(
        data,
        affine,
        relu,
        upsample,
        weight,
        bias,
        stride,
        dilation,
        residual,
        gate,
        gate_scale,
        pool,
        statistics,
        packed,
        config,
    )
    if tiles is None:
        return output, output.new_empty(0), output.new_empty(0), kept
    return output, *merge_statistics(*tiles), kept


def convolve(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    dilation: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    pool: bool,
    statistics: bool,
    packed: Tensor | None = None,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tiles | None]:
    """Return output, what the write keeps for backward, and with ``statistics`` those of its tiles; see ``conv``."""
    if packed is None:
        (packed,) = pack_weights([weight], [[x.shape[1] for x in data]], [upsample], data[0].dtype)
    shape = (weight.shape[0], weight.shape[2])
    operands = (data, affine, relu, upsample, packed, shape, bias, stride, dilation, residual, gate, gate_scale)
    return convolve_packed(*operands, pool, statistics, config=config)


def convolve_packed(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    packed: Tensor,
    shape: tuple[int, int],
    bias: Tensor | None,
    stride: int,
    dilation: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    pool: bool,
    statistics: bool,
    keep: bool = True,
    sign: Tensor | None = None,
    side: Side | None = None,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tiles | None]:
    """Return what ``convolve`` does, from a packed weight.

    Args:
        data: sources, as are ``affine``, ``relu`` and ``upsample``.
        affine: see ``Source``; or (2, C) with scale and shift of all samples.
        relu: see there.
        upsample: see there.
        packed: of ``pack_weights``.
        shape: outputs and kernel size of the weight.
        bias: (outputs).
        stride: of the convolution.
        dilation: of the convolution.
        residual: added.
        gate: multiplied.
        gate_scale: multiplied with the gate first.
        pool: write the 2x2 maximum.
        statistics: take those of the tiles.
        keep: return what a gradient would need; otherwise it is empty.
        sign: (outputs), multiplied with the maximum.
        side: added.
        config: the tile.
    """
    first, (out_channels, taps) = data[0], shape
    samples, parity, zoom = first.shape[0], any(upsample), 2 if upsample[0] else 1
    height, width = ((zoom * size - 1) // stride + 1 for size in first.shape[2:])
    check_supported(data, upsample, pool, stride, dilation, out_channels * height * width)
    if side is not None:
        check_supported(side.data, side.upsample, False, side.stride, 1, out_channels * height * width)
    if config is None:
        inputs = sum(x.shape[1] for x in data)
        config = choose(
            Layer("forward", first.dtype, inputs, out_channels, taps, stride, dilation, parity, pool, height * width),
            first.device,
        )
        if side is not None and first.dtype.itemsize > 2:
            # Beside a product of wider blocks, those of the side spill registers.
            config = replace(config, block_in=16, block_out=min(config.block_out, 32))
    window_rows, window_columns = (2, 2) if parity or pool else (config.window_rows, 1)
    rows, columns = windows(height, window_rows, dilation, pool), windows(width, window_columns, dilation, pool)
    out_height, out_width = (rows, columns) if pool else (height, width)
    output = empty_image(first, out_channels, out_height, out_width, first.dtype)
    kept = None
    if keep and (pool or gate is not None):
        kept = empty_image(first, out_channels, out_height, out_width, torch.uint8 if pool else first.dtype)
    tiles = cdiv(rows * columns, config.block_pixels)
    written = tile_statistics(first, tiles, out_channels) if statistics else None
    reads = [2 if up and taps == 3 else taps for up in upsample]
    second, last = len(data) == 2, len(data) - 1
    exact = is_exact(
        output.shape if pool else (samples, out_channels, height, width),
        (1, 1) if pool else (window_rows, window_columns),
        dilation,
        config,
        [x.shape[1] for x in data],
    )
    products = sum(x.shape[1] * read**2 for x, read in zip(data, reads, strict=True))
    if side is not None:
        products += side.weight.shape[1]
    launch(
        forward_kernel,
        (samples * tiles, cdiv(out_channels, config.block_out)),
        *source_arguments(data[0], affine[0]),
        *(source_arguments(data[1], affine[1]) if second else (None, None, 0, 0, 0)),
        packed,
        bias,
        residual,
        gate,
        gate_scale,
        sign,
        *_side_arguments(side),
        output,
        kept,
        *(written or (None, None, None)),
        samples,
        rows,
        columns,
        tiles,
        height,
        width,
        out_channels,
        stride,
        dilation,
        multiply_adds=samples * out_channels * height * width * products,
        TAPS=reads[0],
        TAPS2=reads[1] if second else 0,
        UPSAMPLE=upsample[0],
        UPSAMPLE2=second and upsample[1],
        AFFINE=affine[0].shape[0],
        AFFINE2=affine[last].shape[0],
        RELU=relu[0],
        RELU2=relu[last],
        POOL=pool,
        **_side_options(side, exact, config),
        WINDOW_ROWS=window_rows,
        WINDOW_COLUMNS=window_columns,
        STEP=stride,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        EXACT=exact,
        num_warps=config.warps,
        num_stages=config.stages,
        **arithmetic(first.dtype),
    )
    return output, first.new_empty(0) if kept is None else kept, written


def _side_arguments(side: Side | None) -> tuple[Tensor | int | None, ...]:
    nothing = (None, None, 0, 0, 0)
    if side is None:
        return (*nothing, *nothing, None)
    given = [source_arguments(*source) for source in zip(side.data, side.affine, strict=True)]
    return (*given[0], *(given[1] if len(given) == 2 else nothing), side.weight)


def _side_options(side: Side | None, exact: bool, config: Config) -> dict[str, Any]:
    upsample, affine, stride = [False], [0], 1
    if side is not None:
        upsample, affine, stride = side.upsample, [len(vectors) for vectors in side.affine], side.stride
        exact = exact and all(x.shape[1] % config.block_in == 0 for x in side.data)
    return {
        "SIDE_UPSAMPLE": upsample[0],
        "SIDE2_UPSAMPLE": upsample[-1],
        "SIDE_AFFINE": affine[0],
        "SIDE2_AFFINE": affine[-1],
        "SIDE_STRIDE": stride,
        "SIDE_EXACT": exact,
    }


def windows(size: int, window: int, dilation: int, pool: bool) -> int:
    """Return how many windows cover ``size`` rows or columns; pooling drops an incomplete one."""
    if window == 1:
        return size
    return size // window if pool else dilation * cdiv(size, dilation * window)


def is_exact(shape: Sequence[int], window: tuple[int, int], dilation: int, config: Config, reduced: list[int]) -> bool:
    """Return whether all tiles, windows and channel blocks are complete, so that nothing needs a mask.

    Args:
        shape: of what is produced, (N, C, H, W).
        window: rows and columns of a window.
        dilation: distance of the pixels in a window.
        config: tile.
        reduced: channels that each reduction runs over.
    """
    _, channels, height, width = shape
    pixels = height * width // (window[0] * window[1])
    return (
        pixels % config.block_pixels == 0
        and (window[0] == 1 or height % (window[0] * dilation) == 0)
        and (window[1] == 1 or width % (window[1] * dilation) == 0)
        and channels % config.block_out == 0
        and all(count % config.block_in == 0 for count in reduced)
    )


def source_arguments(data: Tensor, affine: Tensor) -> tuple[Tensor, Tensor | None, int, int, int]:
    """Return data, affine, rows, columns and channels of a source as kernels take them."""
    return data, affine if affine.numel() else None, *data.shape[2:], data.shape[1]


def tile_statistics(like: Tensor, tiles: int, channels: int) -> Tiles:
    """Return uninitialised statistics."""
    samples, dtype = like.shape[0], torch.promote_types(like.dtype, torch.float32)
    count = like.new_empty((samples, tiles), dtype=torch.int32)
    return Tiles(count, *(like.new_empty((samples, tiles, channels), dtype=dtype) for _ in range(2)))


def empty_image(like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised channels-last image on the device of ``like``."""
    shape = (like.shape[0], channels, height, width)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)
