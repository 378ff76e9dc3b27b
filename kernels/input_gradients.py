"""Launcher of the gradients of a convolution's sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Side:
    """A 1x1 convolution beside another one, of the same sources, stride and size.

    Attributes:
        grad: gradient of its raw result (N, C_out, H, W), channels-last.
        weight: (C_out, inputs, 1, 1).
        affine: scale (1, N, C) that it read each source with, or empty.
    """

    grad: Tensor
    weight: Tensor
    affine: list[Tensor]


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
    added: Tensor | None = None,
    side: Side | None = None,
    config: Config | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the gradients of data, of affine and of the side's affine (empty if there is none), for every source.

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
        added: gradient that reached the first source otherwise, channels-last.
        side: what else read the sources.
        config: tile, or ``None`` for the chosen one.
    """
    results, first_input = [], 0
    for k, x in enumerate(data):
        source = (x, affine[k], relu[k], upsample[k], added if k == 0 else None)
        beside = None if side is None else (side.grad, side.weight, side.affine[k])
        results.append(
            _input_gradient(grad, *source, beside, packed, first_input, kernel_size, stride, dilation, config)
        )
        first_input += x.shape[1]
    grad_data, grad_affine, grad_side = zip(*results, strict=True)
    return list(grad_data), list(grad_affine), list(grad_side)


def _input_gradient(
    grad: OutputGradient,
    data: Tensor,
    affine: Tensor,
    relu: bool,
    upsample: bool,
    added: Tensor | None,
    side: tuple[Tensor, Tensor, Tensor] | None,
    packed: Tensor,
    first_input: int,
    kernel_size: int,
    stride: int,
    dilation: list[int],
    config: Config | None,
) -> tuple[Tensor, Tensor, Tensor]:
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
    side_grad, side_weight, side_scale = (None, None, None) if side is None else side
    has_side_scale = side_scale is not None and side_scale.numel() > 0
    # Sums of dz, of dz (u - center), and of the side's gradient times u.
    sums: Sequence[Tensor | None] = (None, None, None)
    if has_affine or has_side_scale:
        accumulate = torch.promote_types(dtype, torch.float32)
        sums = data.new_empty((3 if has_side_scale else 2, samples, tiles, channels), dtype=accumulate)
    launch(
        input_gradient_kernel,
        (samples * tiles, cdiv(channels, config.block_out)),
        *grad.pointers,
        packed,
        data if has_affine or relu or has_side_scale else None,
        affine if has_affine else None,
        added,
        side_grad,
        side_weight,
        side_scale if has_side_scale else None,
        result,
        sums[0] if has_affine else None,
        sums[1] if has_affine else None,
        sums[2] if has_side_scale else None,
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
        * ((4 if upsample and kernel_size == 3 else kernel_size**2) + (side is not None)),
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
    nothing = affine.new_empty(0)
    if not isinstance(sums, Tensor):
        return result, nothing, nothing
    return result, *finish_affine(sums, affine)
