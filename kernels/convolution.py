"""Launcher of the fused convolution, with the schema of ``fastresunet::conv``."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .config import Config, arithmetic, choose
from .forward import forward_kernel
from .statistics import merge_statistics
from .supported import check_supported
from .weights import forward_weight


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
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, mean, M2 and what the write keeps for backward (pool positions, or the output before the gate).

    Arguments are those of the operation; images are channels-last; at most two sources, not both upsampled and pooled.
    """
    samples, out_channels = data[0].shape[0], weight.shape[0]
    parity, zoom = any(upsample), 2 if upsample[0] else 1
    height, width = ((zoom * size - 1) // stride + 1 for size in data[0].shape[2:])
    out_height, out_width = (height // 2, width // 2) if pool else (height, width)
    rows, columns = (height // 2, width // 2) if parity or pool else (height, width)
    if config is None:
        config = choose(rows * columns, max(x.shape[1] for x in data), out_channels)
    tiles = triton.cdiv(rows * columns, config.block_pixels)
    parts = tiles * (4 if parity else 1)
    output = _empty(data[0], out_channels, out_height, out_width, weight.dtype)
    check_supported(data, upsample, pool, output)
    kept = weight.new_empty(0)
    if pool:
        kept = _empty(data[0], out_channels, out_height, out_width, torch.uint8)
    elif gate is not None:
        kept = torch.empty_like(output)
    accumulation = torch.promote_types(weight.dtype, torch.float32)
    tile_mean, tile_m2 = (
        weight.new_empty((samples, parts, out_channels) if statistics else 0, dtype=accumulation) for _ in range(2)
    )
    sources = [
        (x, v, forward_weight(w, up), *x.shape[2:], x.shape[1])
        for x, v, w, up in zip(data, affine, _sections(weight, data), upsample, strict=True)
    ]
    taps = [2 if up and weight.shape[2] == 3 else weight.shape[2] for up in upsample]
    second = len(data) == 2
    last = len(data) - 1
    forward_kernel[(samples * parts, triton.cdiv(out_channels, config.block_out))](
        *sources[0],
        *sources[last],
        bias,
        residual,
        gate,
        gate_scale,
        output,
        kept,
        tile_mean,
        tile_m2,
        samples,
        rows,
        columns,
        tiles,
        out_channels,
        stride,
        dilation,
        TAPS=taps[0],
        TAPS2=taps[1] if second else 0,
        UPSAMPLE=upsample[0],
        UPSAMPLE2=upsample[last],
        AFFINE=affine[0].numel() > 0,
        AFFINE2=affine[last].numel() > 0,
        RELU=relu[0],
        RELU2=relu[last],
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        HAS_GATE=gate is not None,
        HAS_GATE_SCALE=gate_scale is not None,
        HAS_STATISTICS=statistics,
        QUARTERS="parity" if parity else "window" if pool else "none",
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_IN2=config.block_in,
        BLOCK_OUT=config.block_out,
        num_warps=config.warps,
        num_stages=config.stages,
        **arithmetic(weight.dtype),
    )
    if not statistics:
        return output, tile_mean, tile_m2, kept
    return output, *merge_statistics(tile_mean, tile_m2, tiles, rows * columns, config.block_pixels), kept


def _sections(weight: Tensor, data: list[Tensor]) -> tuple[Tensor, ...]:
    return weight.split([x.shape[1] for x in data], dim=1)


def _empty(like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    shape = (like.shape[0], channels, height, width)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)
