"""BN-ReLU-convolution: sources are normalised as they are read, the result is finished as it is written.

One program computes BLOCK_PIXELS pixels of one sample by BLOCK_OUT channels, of a grid of ``rows x columns`` pixels:

* plainly the output pixels;
* for ``QUARTERS == "parity"`` (an upsampled source) the small map's pixels, once for each parity (p, q) of the output
  pixel (2 row + p, 2 column + q); an upsampled source is then read by 2x2 taps from (row + p - 1, column + q - 1);
* for ``QUARTERS == "window"`` the pooled pixels; the same program computes the four pixels of each window in turn.
"""

import triton
import triton.language as tl

from .operand import accumulate_taps


@triton.jit
def accumulate_source(
    accumulator,
    data_ptr,
    affine_ptr,
    weight_ptr,
    sample,
    samples,
    small_row,
    small_column,
    row,
    column,
    quarter,
    wanted,
    out_channel,
    height,
    width,
    channels,
    out_channels,
    stride,
    dilation,
    TAPS: tl.constexpr,
    UPSAMPLE: tl.constexpr,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Add one source's convolution at output pixels (row, column), at (small_row, small_column) of a small map."""
    if UPSAMPLE:
        # TAPS is 2 for a 3x3 weight (four sets of 2x2 weights, one for each parity) and 1 for a 1x1 weight.
        first_row = small_row + (quarter // 2 - 1) * (TAPS - 1)
        first_column = small_column + (quarter % 2 - 1) * (TAPS - 1)
        if TAPS == 2:
            weight_ptr += quarter * 4 * channels * out_channels
    else:
        first_row = row * stride - dilation * (TAPS // 2)
        first_column = column * stride - dilation * (TAPS // 2)
    return accumulate_taps(
        accumulator,
        data_ptr,
        affine_ptr,
        weight_ptr,
        sample,
        samples,
        first_row,
        first_column,
        wanted,
        out_channel,
        height,
        width,
        channels,
        out_channels,
        dilation,
        TAPS,
        AFFINE,
        RELU,
        BLOCK_IN,
        ACCUMULATE,
        PRECISION,
        WIDEN,
    )


@triton.jit
def forward_kernel(
    data_ptr,
    affine_ptr,
    weight_ptr,
    height,
    width,
    channels,
    data2_ptr,
    affine2_ptr,
    weight2_ptr,
    height2,
    width2,
    channels2,
    bias_ptr,
    residual_ptr,
    gate_ptr,
    gate_scale_ptr,
    output_ptr,
    kept_ptr,
    mean_ptr,
    m2_ptr,
    samples,
    rows,
    columns,
    tiles,
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
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_GATE_SCALE: tl.constexpr,
    HAS_STATISTICS: tl.constexpr,
    QUARTERS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_IN2: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Compute a tile of the fused convolution; ``TAPS2 == 0`` means that there is no second source."""
    PARITY: tl.constexpr = QUARTERS == "parity"
    WINDOW: tl.constexpr = QUARTERS == "window"
    ZOOM: tl.constexpr = 2 if QUARTERS != "none" else 1
    parts = tiles * (4 if PARITY else 1)
    sample = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    tile = part % tiles
    pixel = tile * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    wanted = pixel < rows * columns
    small_row, small_column = pixel // columns, pixel % columns
    out_channel = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    within = out_channel < out_channels
    mask = wanted[:, None] & within[None, :]
    dtype = output_ptr.dtype.element_ty

    best = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE)
    position = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=tl.int32)
    row, column = small_row, small_column
    value = best
    for window in tl.static_range(4 if WINDOW else 1):
        quarter = part // tiles if PARITY else window
        row = small_row * ZOOM + quarter // 2
        column = small_column * ZOOM + quarter % 2
        accumulator = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE)
        accumulator = accumulate_source(
            accumulator,
            data_ptr,
            affine_ptr,
            weight_ptr,
            sample,
            samples,
            small_row,
            small_column,
            row,
            column,
            quarter,
            wanted,
            out_channel,
            height,
            width,
            channels,
            out_channels,
            stride,
            dilation,
            TAPS,
            UPSAMPLE,
            AFFINE,
            RELU,
            BLOCK_IN,
            ACCUMULATE,
            PRECISION,
            WIDEN,
        )
        if TAPS2 > 0:
            accumulator = accumulate_source(
                accumulator,
                data2_ptr,
                affine2_ptr,
                weight2_ptr,
                sample,
                samples,
                small_row,
                small_column,
                row,
                column,
                quarter,
                wanted,
                out_channel,
                height2,
                width2,
                channels2,
                out_channels,
                stride,
                dilation,
                TAPS2,
                UPSAMPLE2,
                AFFINE2,
                RELU2,
                BLOCK_IN2,
                ACCUMULATE,
                PRECISION,
                WIDEN,
            )
        if HAS_BIAS:
            accumulator += tl.load(bias_ptr + out_channel, mask=within, other=0.0).to(ACCUMULATE)[None, :]
        if WINDOW:
            # Compare what will be written; NaN wins and stays.
            value = accumulator.to(dtype).to(ACCUMULATE)
            better = (value > best) | (value != value) | (window == 0)
            best = tl.where(better, value, best)
            position = tl.where(better, window, position)
        else:
            best = accumulator

    if WINDOW:
        row, column = small_row, small_column
    out_columns = columns * 2 if PARITY else columns
    out_pixels = rows * columns * (4 if PARITY else 1)
    base = sample.to(tl.int64) * out_pixels * out_channels
    offset = (row * out_columns + column)[:, None] * out_channels + out_channel[None, :]
    if HAS_RESIDUAL:
        best += tl.load(residual_ptr + base + offset, mask=mask, other=0.0).to(ACCUMULATE)
    if HAS_GATE:
        before = best.to(dtype)
        tl.store(kept_ptr + base + offset, before, mask=mask)
        gate = tl.load(gate_ptr + base + offset, mask=mask, other=0.0).to(ACCUMULATE)
        if HAS_GATE_SCALE:
            scale = tl.load(gate_scale_ptr + sample * out_channels + out_channel, mask=within, other=0.0)
            gate *= scale[None, :]
        best = before.to(ACCUMULATE) * gate
    written = best.to(dtype)
    tl.store(output_ptr + base + offset, written, mask=mask)
    if WINDOW:
        tl.store(kept_ptr + base + offset, position.to(tl.uint8), mask=mask)
    if HAS_STATISTICS:
        count = tl.minimum(rows * columns - tile * BLOCK_PIXELS, BLOCK_PIXELS)
        value = tl.where(mask, written.to(ACCUMULATE), 0.0)
        mean = tl.sum(value, axis=0) / count
        deviation = tl.where(mask, value - mean[None, :], 0.0)
        m2 = tl.sum(deviation * deviation, axis=0)
        statistic = tl.program_id(0) * out_channels + out_channel
        tl.store(mean_ptr + statistic, mean, mask=within)
        tl.store(m2_ptr + statistic, m2, mask=within)
