"""How the gradients of a source are divided into programs: tiles, windows, and shares of the sums over pixels."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .config import Config, Layer
from .convolution import is_exact, windows
from .output_gradient import OutputGradient
from .rounding import cdiv

# Programs that fill a large GPU once, and a few times over; the weight gradient splits its pixels until it has as many.
_FEWEST_PROGRAMS, _MOST_PROGRAMS = 128, 512
# Of all slabs of a layer together; they are written once and read once.
_SLAB_BYTES = 4 << 20
# Divisions that are remembered, as they take the host longer than all else: some dozens for each image size.
_KEPT = 4096


class Read(NamedTuple):
    """How convolutions read a source.

    Attributes:
        kernel_size: 1 or 3.
        stride: 1 or 2.
        dilation: of each branch.
        upsample: whether the source is read at twice its resolution.
    """

    kernel_size: int
    stride: int
    dilation: tuple[int, ...]
    upsample: bool

    def layer(self, kind: Any, grad: OutputGradient, channels: int) -> Layer:
        """Return what a configuration is chosen by."""
        outputs, pixels = grad.channels, grad.pixels
        reads = (self.kernel_size, self.stride, max(self.dilation), self.upsample)
        return Layer(kind, grad.grad.dtype, channels, outputs, *reads, grad.winners is not None, pixels)


@dataclass(frozen=True)
class WeightPrograms:
    """Programs of the gradient of one source's part of a weight.

    Attributes:
        config: their tile.
        taps: along one axis; of an upsampled source, of one parity.
        slots: matrices of a slab, see ``pack``.
        rows: of windows.
        columns: of windows.
        tiles: that cover the windows of a sample.
        splits: shares of the sum, one slab for each.
        programs: in all.
        products: multiply-add operations for each pixel of the result, input and output channel.
        shape: of the slabs (branches, splits, slots, channels, out_channels).
        constants: the tile as the kernel takes it.
    """

    config: Config
    taps: int
    slots: int
    rows: int
    columns: int
    tiles: int
    splits: int
    programs: int
    products: int
    shape: tuple[int, ...]
    constants: tuple[Any, ...]

    @property
    def arguments(self) -> tuple[int, ...]:
        """Sizes as the kernel takes them."""
        return self.rows, self.columns, self.tiles, self.splits, self.programs

    def new_slabs(self, like: Tensor) -> Tensor:
        """Return uninitialised slabs on the device of a tensor."""
        return like.new_empty(self.shape, dtype=torch.promote_types(like.dtype, torch.float32))

    def new_bias_sums(self, like: Tensor) -> Tensor:
        """Return uninitialised parts (parts, out_channels) of the bias gradient on the device of a tensor."""
        # Parities that are slots of their own see a quarter of the pixels each.
        parts = self.splits * (1 if self.config.all_taps else self.slots // self.taps**2)
        return like.new_empty((parts, self.shape[-1]), dtype=torch.promote_types(like.dtype, torch.float32))


@functools.lru_cache(maxsize=_KEPT)
def weight_programs(
    size: tuple[int, int], out_channels: int, shape: tuple[int, ...], read: Read, config: Config
) -> WeightPrograms:
    """Divide the gradient of a weight.

    Args:
        size: rows and columns of the raw results.
        out_channels: of each branch.
        shape: of the source (N, C, H, W).
        read: how it was read.
        config: tile.
    """
    samples, channels, height, width = shape
    (out_height, out_width), branches = size, len(read.dilation)
    taps = 2 if read.upsample and read.kernel_size == 3 else read.kernel_size
    slots = taps * taps * (4 if read.upsample and (taps == 2 or not config.all_taps) else 1)
    window_rows, window_columns = config.window_rows if config.all_taps else 1, 1
    if read.upsample and config.all_taps:
        window_rows = window_columns = 2
    # Branches of different dilation have differently many windows; those that a branch lacks are outside the image.
    rows = max(windows(out_height, window_rows, rate, False) for rate in read.dilation)
    columns = max(windows(out_width, window_columns, rate, False) for rate in read.dilation)
    if read.upsample:
        rows, columns = height, width
    tiles = cdiv(rows * columns, config.block_pixels)
    programs = cdiv(channels, config.block_in) * cdiv(out_channels, config.block_out) * branches
    programs *= 1 if config.all_taps else slots
    # Each program writes a slab; together they should stay small beside the features.
    slab_bytes = 4 * config.block_in * config.block_out * (slots if config.all_taps else 1)
    wanted = min(_MOST_PROGRAMS, max(_FEWEST_PROGRAMS, _SLAB_BYTES // slab_bytes))
    splits = max(1, min(samples * tiles, wanted // programs))
    written = (samples, out_channels, out_height, out_width)
    exact = rows * columns % config.block_pixels == 0 and all(
        is_exact(written, (window_rows, window_columns), rate, config, [channels])
        and (read.upsample or windows(out_height, window_rows, rate, False) == rows)
        for rate in read.dilation
    )
    return WeightPrograms(
        config,
        taps,
        slots,
        rows,
        columns,
        tiles,
        splits,
        splits * programs,
        branches * taps**2,
        (branches, splits, slots, channels, out_channels),
        (*_tile(config, window_rows, window_columns, exact), config.all_taps),
    )


@dataclass(frozen=True)
class InputTiles:
    """Tiles of the gradient of a source.

    Attributes:
        config: their size.
        mode: how windows meet the output's gradient, see ``implicit_gemm``.
        taps: along one axis.
        rows: of windows.
        columns: of windows.
        tiles: that cover the windows of a sample.
        programs: in all.
        products: multiply-add operations for each pixel of the result, input and output channel.
        constants: the tile as the kernel takes it.
    """

    config: Config
    mode: str
    taps: int
    rows: int
    columns: int
    tiles: int
    programs: int
    products: int
    constants: tuple[Any, ...]

    @property
    def arguments(self) -> tuple[int, ...]:
        """Sizes as the kernel takes them."""
        return self.rows, self.columns, self.tiles


@functools.lru_cache(maxsize=_KEPT)
def input_tiles(out_channels: int, shape: tuple[int, ...], read: Read, config: Config) -> InputTiles:
    """Divide the gradient of a source; arguments are those of ``weight_programs``."""
    samples, channels, height, width = shape
    taps, mode, window_rows, window_columns = read.kernel_size, "flipped", config.window_rows, 1
    if read.upsample:
        # Each pixel was read by 4x4 outputs through a 3x3 weight, by 2x2 through a 1x1 weight.
        taps, mode, window_rows = 4 if read.kernel_size == 3 else 2, "spread", 1
    elif read.stride == 2:
        mode, window_rows, window_columns = "strided", 2, 2
    elif len(read.dilation) > 1:
        window_rows = 1
    dilation = read.dilation[0]
    rows, columns = windows(height, window_rows, dilation, False), windows(width, window_columns, dilation, False)
    tiles = cdiv(rows * columns, config.block_pixels)
    exact = is_exact(shape, (window_rows, window_columns), dilation, config, [out_channels])
    return InputTiles(
        config,
        mode,
        taps,
        rows,
        columns,
        tiles,
        samples * tiles * cdiv(channels, config.block_out),
        len(read.dilation) * (4 if read.upsample and read.kernel_size == 3 else read.kernel_size**2),
        _tile(config, window_rows, window_columns, exact),
    )


def _tile(config: Config, window_rows: int, window_columns: int, exact: bool) -> tuple[Any, ...]:
    window = (window_rows, window_columns)
    return config.block_pixels, config.block_in, config.block_out, *window, exact, config.stages
