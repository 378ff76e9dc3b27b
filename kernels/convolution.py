"""Launcher of the fused convolution, with the schema of ``fastresunet::conv``."""

from __future__ import annotations

from collections.abc import Sequence

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
    first, out_channels, taps = data[0], weight.shape[0], weight.shape[2]
    samples, parity, zoom = first.shape[0], any(upsample), 2 if upsample[0] else 1
    height, width = ((zoom * size - 1) // stride + 1 for size in first.shape[2:])
    check_supported(data, upsample, pool, stride, dilation, out_channels * height * width)
    if config is None:
        inputs = sum(x.shape[1] for x in data)
        config = choose(
            Layer("forward", first.dtype, inputs, out_channels, taps, stride, dilation, parity, pool, height * width),
            first.device,
        )
    window_rows, window_columns = (2, 2) if parity or pool else (config.window_rows, 1)
    rows, columns = windows(height, window_rows, dilation, pool), windows(width, window_columns, dilation, pool)
    out_height, out_width = (rows, columns) if pool else (height, width)
    output = empty_image(first, out_channels, out_height, out_width, first.dtype)
    kept = None
    if pool or gate is not None:
        kept = empty_image(first, out_channels, out_height, out_width, torch.uint8 if pool else first.dtype)
    tiles = cdiv(rows * columns, config.block_pixels)
    count, tile_mean, tile_m2 = tile_statistics(first, tiles, out_channels) if statistics else (None, None, None)
    if packed is None:
        (packed,) = pack_weights([weight], [[x.shape[1] for x in data]], [upsample], first.dtype)
    reads = [2 if up and taps == 3 else taps for up in upsample]
    second, last = len(data) == 2, len(data) - 1
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
        output,
        kept,
        count,
        tile_mean,
        tile_m2,
        samples,
        rows,
        columns,
        tiles,
        height,
        width,
        out_channels,
        stride,
        dilation,
        multiply_adds=samples
        * out_channels
        * height
        * width
        * sum(x.shape[1] * read**2 for x, read in zip(data, reads, strict=True)),
        TAPS=reads[0],
        TAPS2=reads[1] if second else 0,
        UPSAMPLE=upsample[0],
        UPSAMPLE2=second and upsample[1],
        AFFINE=len(affine[0]),
        AFFINE2=len(affine[last]),
        RELU=relu[0],
        RELU2=relu[last],
        POOL=pool,
        WINDOW_ROWS=window_rows,
        WINDOW_COLUMNS=window_columns,
        STEP=stride,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        EXACT=is_exact(
            output.shape if pool else (samples, out_channels, height, width),
            (1, 1) if pool else (window_rows, window_columns),
            dilation,
            config,
            [x.shape[1] for x in data],
        ),
        num_warps=config.warps,
        num_stages=config.stages,
        **arithmetic(first.dtype),
    )
    nothing = first.new_empty(0)
    kept = nothing if kept is None else kept
    if count is None or tile_mean is None or tile_m2 is None:
        return output, nothing, nothing, kept
    return output, *merge_statistics(count, tile_mean, tile_m2), kept


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


def tile_statistics(like: Tensor, tiles: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return uninitialised counts (samples, tiles), means and M2 (samples, tiles, channels)."""
    samples, dtype = like.shape[0], torch.promote_types(like.dtype, torch.float32)
    count = like.new_empty((samples, tiles), dtype=torch.int32)
    return count, *like.new_empty((2, samples, tiles, channels), dtype=dtype)


def empty_image(like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised channels-last image on the device of ``like``."""
    shape = (like.shape[0], channels, height, width)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)
