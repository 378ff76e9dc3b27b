"""BN-ReLU-convolution: sources are normalised as they are read, the result is finished as it is written.

A program computes BLOCK_PIXELS windows, see ``window``, of one sample by BLOCK_OUT channels; ``rows x columns`` windows
cover the output.
"""

import triton.language as tl

from .implicit_gemm import accumulate_sources
from .kernel import kernel
from .side import accumulate_side
from .statistics import store_statistics
from .tile import load_block, load_vector, store_block
from .window import window_start


@kernel
def forward_kernel(
    data_ptr,
    affine_ptr,
    height,
    width,
    channels,
    data2_ptr,
    affine2_ptr,
    height2,
    width2,
    channels2,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    gate_ptr,
    gate_scale_ptr,
    sign_ptr,
    side_ptr,
    side_affine_ptr,
    side_height,
    side_width,
    side_channels,
    side2_ptr,
    side2_affine_ptr,
    side2_height,
    side2_width,
    side2_channels,
    side_weight_ptr,
    output_out,
    kept_out,
    count_out,
    mean_out,
    m2_out,
    samples,
    rows,
    columns,
    tiles,
    out_height,
    out_width,
    out_channels,
    stride,
    dilation,
    TAPS: tl.constexpr,
    TAPS2: tl.constexpr,
    UPSAMPLE: tl.constexpr,
    UPSAMPLE2: tl.constexpr,
    AFFINE: tl.constexpr,
    AFFINE2: tl.constexpr,
    RELU: tl.constexpr,
    RELU2: tl.constexpr,
    POOL: tl.constexpr,
    SIDE_UPSAMPLE: tl.constexpr,
    SIDE2_UPSAMPLE: tl.constexpr,
    SIDE_AFFINE: tl.constexpr,
    SIDE2_AFFINE: tl.constexpr,
    SIDE_STRIDE: tl.constexpr,
    SIDE_EXACT: tl.constexpr,
    WINDOW_ROWS: tl.constexpr,
    WINDOW_COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute a tile of the fused convolution; ``TAPS2 == 0`` means that there is no second source.

    A pointer that is ``None`` leaves its part out. ``TAPS`` is 2 for a 3x3 weight on an upsampled source. The side, one
    or two sources and a weight (out_channels, inputs), is added as ``accumulate_side`` says. A pooled maximum is
    multiplied with the sign of its channel, if there is one.
    """
    sample = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    index = tile * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    wanted = index < rows * columns
    row_index, column_index = index // columns, index % columns
    row = window_start(row_index, dilation, WINDOW_ROWS)
    column = window_start(column_index, dilation, WINDOW_COLUMNS)
    out_channel = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    dtype: tl.constexpr = output_out.dtype.element_ty
    accumulators = accumulate_sources(
        data_ptr,
        affine_ptr,
        height,
        width,
        channels,
        data2_ptr,
        affine2_ptr,
        height2,
        width2,
        channels2,
        weight_ptr,
        sample,
        samples,
        row_index,
        column_index,
        row,
        column,
        wanted,
        out_channel,
        out_channels,
        out_channels,
        stride,
        dilation,
        TAPS,
        TAPS2,
        UPSAMPLE,
        UPSAMPLE2,
        AFFINE,
        AFFINE2,
        RELU,
        RELU2,
        WINDOW_ROWS,
        WINDOW_COLUMNS,
        STEP,
        BLOCK_PIXELS,
        BLOCK_IN,
        BLOCK_OUT,
        EXACT,
        ACCUMULATE,
        PRECISION,
        PACKED,
        WIDEN,
    )
    side_inputs = side_channels + side2_channels
    if side_ptr is not None:
        accumulators = accumulate_side(
            accumulators,
            side_ptr,
            side_affine_ptr,
            side_height,
            side_width,
            side_channels,
            side_weight_ptr,
            side_inputs,
            sample,
            samples,
            row,
            column,
            wanted,
            out_channel,
            out_channels,
            SIDE_UPSAMPLE,
            SIDE_AFFINE,
            SIDE_STRIDE,
            WINDOW_ROWS,
            WINDOW_COLUMNS,
            BLOCK_IN,
            SIDE_EXACT,
            ACCUMULATE,
            PRECISION,
            PACKED,
            WIDEN,
        )
    if side2_ptr is not None:
        accumulators = accumulate_side(
            accumulators,
            side2_ptr,
            side2_affine_ptr,
            side2_height,
            side2_width,
            side2_channels,
            side_weight_ptr + side_channels,
            side_inputs,
            sample,
            samples,
            row,
            column,
            wanted,
            out_channel,
            out_channels,
            SIDE2_UPSAMPLE,
            SIDE2_AFFINE,
            SIDE_STRIDE,
            WINDOW_ROWS,
            WINDOW_COLUMNS,
            BLOCK_IN,
            SIDE_EXACT,
            ACCUMULATE,
            PRECISION,
            PACKED,
            WIDEN,
        )
    if bias_ptr is not None:
        bias = load_vector(bias_ptr, out_channel, out_channels, EXACT).to(ACCUMULATE)[None, :]
        finished = ()
        for p in tl.static_range(WINDOW_ROWS * WINDOW_COLUMNS):
            finished += (accumulators[p] + bias,)
        accumulators = finished
    written_pixels = rows * columns if POOL else out_height * out_width
    base = sample.to(tl.int64) * written_pixels * out_channels
    masks = ()
    values = ()
    if POOL:
        # Compare what will be written; the first of equals wins; NaN wins and stays. Without the position, rounding may
        # wait: it keeps the order.
        best = accumulators[0]
        if kept_out is not None:
            best = best.to(dtype).to(ACCUMULATE)
        position = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=tl.int32)
        for p in tl.static_range(1, 4):
            value = accumulators[p]
            if kept_out is not None:
                value = value.to(dtype).to(ACCUMULATE)
            better = (value > best) | (value != value)
            best = tl.where(better, value, best)
            position = tl.where(better, p, position)
        offset = base + index[:, None] * out_channels + out_channel[None, :]
        mask = wanted[:, None] & (out_channel < out_channels)[None, :]
        if sign_ptr is not None:
            best *= load_vector(sign_ptr, out_channel, out_channels, EXACT).to(ACCUMULATE)[None, :]
        store_block(output_out + offset, best.to(dtype), mask, EXACT)
        if kept_out is not None:
            store_block(kept_out + offset, position.to(tl.uint8), mask, EXACT)
        masks += (mask,)
        values += (best,)
    else:
        spacing = 1 if UPSAMPLE or UPSAMPLE2 else dilation
        for p in tl.static_range(WINDOW_ROWS):
            for q in tl.static_range(WINDOW_COLUMNS):
                pixel_row = row + p * spacing
                pixel_column = column + q * spacing
                inside = wanted & (pixel_row < out_height) & (pixel_column < out_width)
                mask = inside[:, None] & (out_channel < out_channels)[None, :]
                offset = base + (pixel_row * out_width + pixel_column)[:, None] * out_channels + out_channel[None, :]
                value = accumulators[p * WINDOW_COLUMNS + q]
                if residual_ptr is not None:
                    value += load_block(residual_ptr + offset, mask, EXACT).to(ACCUMULATE)
                if gate_ptr is not None:
                    before = value.to(dtype)
                    if kept_out is not None:
                        store_block(kept_out + offset, before, mask, EXACT)
                    gate = load_block(gate_ptr + offset, mask, EXACT).to(ACCUMULATE)
                    if gate_scale_ptr is not None:
                        vector = sample * out_channels + out_channel
                        gate *= load_vector(gate_scale_ptr, vector, (sample + 1) * out_channels, EXACT)[None, :]
                    value = before.to(ACCUMULATE) * gate
                written = value.to(dtype)
                store_block(output_out + offset, written, mask, EXACT)
                masks += (mask,)
                values += (written.to(ACCUMULATE),)
    if mean_out is not None:
        store_statistics(values, masks, count_out, mean_out, m2_out, tl.program_id(0), out_channel, out_channels, EXACT)
