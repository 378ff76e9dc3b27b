"""Gradient of a convolution's raw result: back through statistics, gate and pooling, in one pass.

``dY = dy + dmean / P + 2 dM2 (y - mean)`` for the tensor that was written; then through the gate, ``dc = dY g s`` and
``dg = dY c s`` with the result ``c`` before the gate ``g`` of scale ``s``; or through the 2x2 maximum, to its winner.
Every program also sums its tile of ``dc`` (the bias gradient) and of ``dY c g`` (the gradient of the scale).
"""

import triton
import triton.language as tl

from .tile import load_block, store_block


@triton.jit
def output_gradient_kernel(
    grad_ptr,
    grad_mean_ptr,
    grad_m2_ptr,
    output_ptr,
    mean_ptr,
    kept_ptr,
    gate_ptr,
    gate_scale_ptr,
    result_out,
    grad_gate_out,
    bias_sum_out,
    scale_sum_out,
    rows,
    columns,
    tiles,
    height,
    width,
    channels,
    POOL: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Compute a tile of ``rows x columns`` written pixels; (height, width) is the raw result's size if POOL."""
    sample = tl.program_id(0) // tiles
    pixel = (tl.program_id(0) % tiles) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    within = channel < channels
    mask = (pixel < rows * columns)[:, None] & within[None, :]
    base = sample.to(tl.int64) * rows * columns * channels
    offset = base + pixel[:, None] * channels + channel[None, :]
    vector = sample * channels + channel
    dtype = result_out.dtype.element_ty

    grad = load_block(grad_ptr + offset, mask, EXACT).to(ACCUMULATE)
    if grad_mean_ptr is not None:
        mean = tl.load(mean_ptr + vector, mask=within, other=0.0)
        grad_mean = tl.load(grad_mean_ptr + vector, mask=within, other=0.0)
        grad_m2 = tl.load(grad_m2_ptr + vector, mask=within, other=0.0)
        deviation = load_block(output_ptr + offset, mask, EXACT).to(ACCUMULATE) - mean[None, :]
        grad += deviation * (2 * grad_m2)[None, :] + (grad_mean / (rows * columns))[None, :]
    grad = grad.to(dtype).to(ACCUMULATE)
    if not EXACT:
        grad = tl.where(mask, grad, 0.0)
    if gate_ptr is not None:
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
        grad = (grad * gate).to(dtype).to(ACCUMULATE)
    tl.store(bias_sum_out + tl.program_id(0) * channels + channel, tl.sum(grad, axis=0), mask=within)
    if POOL:
        winner = load_block(kept_ptr + offset, mask, EXACT).to(tl.int32)
        row, column = pixel // columns, pixel % columns
        raw_base = sample.to(tl.int64) * height * width * channels
        for position in tl.static_range(4):
            raw_pixel = (row * 2 + position // 2) * width + column * 2 + position % 2
            value = tl.where(winner == position, grad, 0.0)
            pointer = result_out + raw_base + raw_pixel[:, None] * channels + channel[None, :]
            store_block(pointer, value.to(dtype), mask, EXACT)
    else:
        store_block(result_out + offset, grad.to(dtype), mask, EXACT)
