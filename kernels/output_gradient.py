"""Gradient of a convolution's raw result: back through statistics, gate and pooling.

With the gradients of data ``dy``, mean and M2 of what was written,

    dY = dy + dmean / P + 2 dM2 (y - mean)

then through the gate, ``dc = dY g s`` and ``dg = dY c s`` with the result ``c`` before the gate ``g`` of scale ``s``;
or through the 2x2 maximum, to its winner. The consumers of dY put the first line and the maximum together as they read.
Where more than two consumers read it, or there is a gate, it is written once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from .config import accumulation
from .kernel import kernel
from .launch import launch
from .operand import load_statistics
from .rounding import cdiv, next_power_of_2
from .sum_parts import sum_parts
from .tile import load_block, store_block

_BLOCK_PIXELS = 64


@dataclass(frozen=True)
class OutputGradient:
    """Gradients of the raw results of one or more branches, put together where they are read.

    Attributes:
        grad: (N, C, H, W), of what was written, or (branches, N, C, H, W); each channels-last.
        size: rows and columns of the raw result.
        output: what was written, where its statistics had gradients.
        statistics: its mean, and the gradients of its M2 and mean (3, N, C).
        winners: positions of maxima, where the result was pooled.
    """

    grad: Tensor
    size: tuple[int, int]
    output: Tensor | None = None
    statistics: Tensor | None = None
    winners: Tensor | None = None

    @property
    def pointers(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Arguments of the kernels that read it."""
        return self.grad, self.output, self.statistics, self.winners

    @property
    def channels(self) -> int:
        """Channels of one branch."""
        return self.grad.shape[-3]

    @property
    def pixels(self) -> int:
        """Pixels of one sample of the raw result."""
        return self.size[0] * self.size[1]


@kernel
def output_gradient_kernel(
    grad_ptr,
    output_ptr,
    statistics_ptr,
    kept_ptr,
    gate_ptr,
    gate_scale_ptr,
    result_out,
    grad_gate_out,
    scale_sum_out,
    samples,
    pixels,
    tiles,
    channels,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Compute a tile of the gradient before the gate, or of what was written if there is none."""
    sample = tl.program_id(0) // tiles
    pixel = (tl.program_id(0) % tiles) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    within = channel < channels
    mask = (pixel < pixels)[:, None] & within[None, :]
    base = sample.to(tl.int64) * pixels * channels
    offset = base + pixel[:, None] * channels + channel[None, :]
    vector = sample * channels + channel
    dtype = result_out.dtype.element_ty

    grad = load_block(grad_ptr + offset, mask, EXACT).to(ACCUMULATE)
    if output_ptr is not None:
        mean, slope, level = load_statistics(statistics_ptr, sample, samples, channel, channels, pixels)
        deviation = load_block(output_ptr + offset, mask, EXACT).to(ACCUMULATE) - mean[None, :]
        grad += deviation * slope[None, :] + level[None, :]
    if not EXACT:
        grad = tl.where(mask, grad, 0.0)
    if gate_ptr is not None:
        grad = grad.to(dtype).to(ACCUMULATE)
        raw = load_block(kept_ptr + offset, mask, EXACT).to(ACCUMULATE)
        gate = load_block(gate_ptr + offset, mask, EXACT).to(ACCUMULATE)
        grad_gate = grad * raw
        if gate_scale_ptr is not None:
            scale = tl.load(gate_scale_ptr + vector, mask=within, other=0.0)
            sum_offset = tl.program_id(0) * channels + channel
            tl.store(scale_sum_out + sum_offset, tl.sum(grad_gate * gate, axis=0), mask=within)
            grad_gate *= scale[None, :]
            gate *= scale[None, :]
        store_block(grad_gate_out + offset, grad_gate.to(dtype), mask, EXACT)
        grad *= gate
    store_block(result_out + offset, grad.to(dtype), mask, EXACT)


def write_output_gradient(
    gradient: OutputGradient, kept: Tensor, gate: Tensor | None, gate_scale: Tensor | None
) -> tuple[OutputGradient, Tensor, Tensor]:
    """Return the gradient of the result before a gate, as one tensor, and those of the gate and its scale.

    Args:
        gradient: of what was written, not pooled.
        kept: the result before the gate.
        gate: factor of the result, or ``None``.
        gate_scale: (N, C), factor of the gate, or ``None``.
    """
    grad, output, statistics, _ = gradient.pointers
    samples, channels, height, width = grad.shape
    pixels = height * width
    result = torch.empty_like(grad)
    block = min(64, max(16, next_power_of_2(channels)))
    tiles = cdiv(pixels, _BLOCK_PIXELS)
    scale_sums = None
    if gate_scale is not None:
        scale_sums = gate_scale.new_empty((samples, tiles, channels))
    grad_gate = None if gate is None else torch.empty_like(grad)
    launch(
        output_gradient_kernel,
        (samples * tiles, cdiv(channels, block)),
        grad,
        output,
        statistics,
        kept if gate is not None else None,
        gate,
        gate_scale,
        result,
        grad_gate,
        scale_sums,
        samples,
        pixels,
        tiles,
        channels,
        BLOCK_PIXELS=_BLOCK_PIXELS,
        BLOCK_CHANNELS=block,
        EXACT=pixels % _BLOCK_PIXELS == 0 and channels % block == 0,
        ACCUMULATE=accumulation(grad.dtype),
    )
    nothing = grad.new_empty(0)
    return (
        OutputGradient(result, gradient.size),
        nothing if grad_gate is None else grad_gate,
        nothing if scale_sums is None else sum_parts(scale_sums, scale_sums.dtype),
    )
