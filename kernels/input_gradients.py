"""Launcher of the gradients of a convolution's sources."""

from __future__ import annotations

import torch
from torch import Tensor

from .choice import choose
from .config import Config, Layer, arithmetic
from .convolution import is_exact, windows
from .finish import finish_affine
from .input_gradient import input_gradient_kernel
from .launch import launch
from .output_gradient import OutputGradient
from .rounding import cdiv


def input_gradients(
    grad: OutputGradient,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    packed: Tensor,
    kernel_size: int,
    stride: int,
    dilation: list[int],
    config: Config | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return the gradients of data and affine (empty if there is none) of every source.

    Args:
        grad: gradients of the raw results of all branches; usually one.
        data: the sources (N, C, H, W), channels-last.
        affine: (3, N, C) or (1, N, C) of each, or empty.
        relu: whether each was read through a ReLU.
        upsample: whether each was read at twice its resolution.
        packed: the branches' weights, their outputs one after another, transposed; see ``pack_weight``.
        kernel_size: 1 or 3.
        stride: of the convolutions.
        dilation: of each branch.
        config: tile, or ``None`` for the chosen one.
    """
    results, first_input = [], 0
    for x, vectors, positive, up in zip(data, affine, relu, upsample, strict=True):
        results.append(
            _input_gradient(grad, x, vectors, positive, up, packed, first_input, kernel_size, stride, dilation, config)
        )
        first_input += x.shape[1]
    return results


def _input_gradient(
    grad: OutputGradient,
    data: Tensor,
    affine: Tensor,
    relu: bool,
    upsample: bool,
    packed: Tensor,
    first_input: int,
    kernel_size: int,
    stride: int,
    dilation: list[int],
    config: Config | None,
) -> tuple[Tensor, Tensor]:
    samples, channels, height, width = data.shape
    grad_channels, dtype = grad.channels, grad.grad.dtype
    if config is None:
        config = choose(
            Layer(
                "input_gradient",
                dtype,
                channels,
                grad_channels,
                kernel_size,
                stride,
                max(dilation),
                upsample,
                False,
                grad.pixels,
            ),
            data.device,
        )
    taps, mode, window_rows, window_columns = kernel_size, "flipped", config.window_rows if len(dilation) == 1 else 1, 1
    if upsample:
        # Each pixel was read by 4x4 outputs through a 3x3 weight, by 2x2 through a 1x1 weight.
        taps, mode, window_rows = 4 if kernel_size == 3 else 2, "spread", 1
    elif stride == 2:
        mode, window_rows, window_columns = "strided", 2, 2
    rows, columns = (
        windows(height, window_rows, dilation[0], False),
        windows(width, window_columns, dilation[0], False),
    )
    tiles = cdiv(rows * columns, config.block_pixels)
    has_affine = affine.numel() > 0
    result = torch.empty_like(data)
    sums = affine.new_empty((2, samples, tiles, channels)) if has_affine else (None, None)
    launch(
        input_gradient_kernel,
        (samples * tiles, cdiv(channels, config.block_out)),
        *grad.pointers,
        packed,
        data if has_affine or relu else None,
        affine if has_affine else None,
        result,
        sums[0],
        sums[1],
        samples,
        rows,
        columns,
        tiles,
        *grad.size,
        grad_channels,
        height,
        width,
        channels,
        first_input,
        packed.shape[2],
        multiply_adds=samples
        * grad.pixels
        * grad_channels
        * len(dilation)
        * channels
        * (4 if upsample and kernel_size == 3 else kernel_size**2),
        DILATIONS=tuple(dilation),
        MODE=mode,
        TAPS=taps,
        AFFINE=len(affine),
        RELU=relu,
        RAW=kernel_size == 1,
        WINDOW_ROWS=window_rows,
        WINDOW_COLUMNS=window_columns,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        EXACT=is_exact(data.shape, (window_rows, window_columns), dilation[0], config, [grad_channels]),
        num_warps=config.warps,
        num_stages=config.stages,
        **arithmetic(dtype),
    )
    if not isinstance(sums, Tensor):
        return result, affine.new_empty(0)
    return result, finish_affine(sums, affine)
