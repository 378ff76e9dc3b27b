"""Launcher of the gradient of a convolution's weight."""

from __future__ import annotations

import torch
from torch import Tensor

from .choice import choose
from .config import Config, Layer, arithmetic
from .convolution import is_exact, source_arguments, windows
from .finish import finish_weight
from .launch import launch
from .output_gradient import OutputGradient
from .rounding import cdiv
from .weight_gradient import all_taps_weight_gradient_kernel, one_tap_weight_gradient_kernel

# Programs that fill a large GPU once, and a few times over; the weight gradient splits its pixels until it has as many.
_FEWEST_PROGRAMS, _MOST_PROGRAMS = 128, 512
# Of all slabs of a layer together; they are written once and read once.
_SLAB_BYTES = 2 << 20


def weight_gradient(
    grad: OutputGradient,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    stride: int,
    dilation: int,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias, in the weight's dtype.

    Args:
        grad: gradient of the raw convolution result.
        data: the sources (N, C, H, W), channels-last.
        affine: (3, N, C) or (1, N, C) of each, or empty.
        relu: whether each was read through a ReLU.
        upsample: whether each was read at twice its resolution.
        weight: (outputs, inputs, k, k).
        stride: of the convolution.
        dilation: of the convolution.
        config: tile, or ``None`` for the chosen one.
    """
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    grad_bias = grad_weight.new_empty(weight.shape[0])
    first_input = 0
    for source in zip(data, affine, relu, upsample, strict=True):
        # Every source sees the whole gradient: the first one's programs also sum that of the bias.
        slabs, bias_sums = _weight_gradient_slabs(
            grad, *source, weight.shape[2], stride, dilation, first_input == 0, config
        )
        finish_weight(slabs, grad_weight, first_input, source[3] and weight.shape[2] == 3, bias_sums, grad_bias)
        first_input += source[0].shape[1]
    return grad_weight, grad_bias


def _weight_gradient_slabs(
    grad: OutputGradient,
    data: Tensor,
    affine: Tensor,
    relu: bool,
    upsample: bool,
    kernel_size: int,
    stride: int,
    dilation: int,
    needs_bias: bool,
    config: Config | None,
) -> tuple[Tensor, Tensor | None]:
    samples, channels, height, width = data.shape
    out_channels, (out_height, out_width), dtype = grad.channels, grad.size, grad.grad.dtype
    if config is None:
        config = choose(
            Layer(
                "weight_gradient",
                dtype,
                channels,
                out_channels,
                kernel_size,
                stride,
                dilation,
                upsample,
                False,
                out_height * out_width,
            ),
            data.device,
        )
    taps = 2 if upsample and kernel_size == 3 else kernel_size
    slots = taps * taps * (4 if upsample and (taps == 2 or not config.all_taps) else 1)
    window_rows, window_columns = config.window_rows if config.all_taps else 1, 1
    if upsample and config.all_taps:
        window_rows = window_columns = 2
    rows, columns = (
        windows(out_height, window_rows, dilation, False),
        windows(out_width, window_columns, dilation, False),
    )
    if upsample:
        rows, columns = height, width
    tiles = cdiv(rows * columns, config.block_pixels)
    blocks = cdiv(channels, config.block_in) * cdiv(out_channels, config.block_out)
    programs = blocks if config.all_taps else blocks * slots
    # Each program writes a slab; together they should stay small beside the features.
    slab_bytes = 4 * config.block_in * config.block_out * (slots if config.all_taps else 1)
    wanted = min(_MOST_PROGRAMS, max(_FEWEST_PROGRAMS, _SLAB_BYTES // slab_bytes))
    splits = max(1, min(samples * tiles, wanted // programs))
    accumulate = torch.promote_types(dtype, torch.float32)
    slabs = data.new_empty((splits, slots, channels, out_channels), dtype=accumulate)
    bias_sums = None
    if needs_bias:
        bias_sums = slabs.new_empty((splits * (1 if config.all_taps else slots // taps**2), out_channels))
    exact = is_exact(
        (samples, out_channels, out_height, out_width), (window_rows, window_columns), dilation, config, [channels]
    )
    grid = (splits, cdiv(channels, config.block_in), cdiv(out_channels, config.block_out))
    window = {"WINDOW_ROWS": window_rows, "WINDOW_COLUMNS": window_columns, "STEP": stride}
    launch(
        all_taps_weight_gradient_kernel if config.all_taps else one_tap_weight_gradient_kernel,
        grid if config.all_taps else (splits, blocks, slots),
        *grad.pointers,
        *source_arguments(data, affine)[:2],
        slabs,
        bias_sums,
        samples,
        rows,
        columns,
        tiles,
        splits,
        out_height,
        out_width,
        out_channels,
        height,
        width,
        channels,
        stride,
        dilation,
        multiply_adds=samples * grad.pixels * out_channels * channels * taps**2,
        TAPS=taps,
        UPSAMPLE=upsample,
        AFFINE=len(affine),
        RELU=relu,
        BLOCK_PIXELS=config.block_pixels,
        BLOCK_IN=config.block_in,
        BLOCK_OUT=config.block_out,
        EXACT=exact and rows * columns % config.block_pixels == 0,
        num_warps=config.warps,
        num_stages=config.stages,
        **(window if config.all_taps else {}),
        **arithmetic(dtype),
    )
    return slabs, bias_sums
