"""Tile sizes and launch options of the implicit GEMMs: the default by rule, and what may be chosen instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import triton
import triton.language as tl

from .interpreter import INTERPRETED


@dataclass(frozen=True)
class Layer:
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
        pool: the result is pooled.
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
    stages: int = 2


def rule(layer: Layer) -> Config:
    """Return the default configuration: at least 16 in each direction, as tensor cores need."""
    inputs, outputs = layer.inputs, layer.outputs
    if layer.kind == "input_gradient":
        inputs, outputs = outputs, inputs
    block_out = min(128, max(16, triton.next_power_of_2(outputs)))
    block_in = min(64 if block_out < 128 else 32, max(16, triton.next_power_of_2(inputs)))
    largest = 128 if block_out <= 64 else 64
    block_pixels = min(largest, max(16, triton.next_power_of_2(layer.pixels)))
    return Config(block_pixels, block_in, block_out)


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
