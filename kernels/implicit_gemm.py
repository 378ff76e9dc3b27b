"""The implicit GEMM of every convolution: taps of activated pixels times packed weights, for a window of outputs.

A program computes BLOCK_PIXELS windows of WINDOW_ROWS x WINDOW_COLUMNS pixels each, every window position in an
accumulator of its own. The inputs of a window overlap: each is read and activated once and multiplied for every
position that has a tap on it. Along one axis, position p of the window and input y are joined by tap

    forward    y - STEP p          the convolution itself; neighbours in the window are STEP inputs apart
    flipped    p + TAPS - 1 - y    gradient of the inputs of a convolution of stride 1
    strided    p + TAPS / 2 - 2 y  the same for stride 2: p is the parity of the input's row, y counts outputs
    spread     y                   the same for a source read at twice its size: taps on 2 y - 1 .., see ``slot``
    nearest    y - p / 2           a 1x1 convolution of a source read at twice its size; windows start at even positions

and by none where that is not in 0 .. TAPS - 1.
"""

import triton
import triton.language as tl

from .operand import load_input, load_read_affine, load_statistics, load_weight, sample_start
from .window import first_input_pixel


@triton.constexpr_function
def tap(mode, taps, step, position, y):
    """Return the tap that joins a window position and an input along one axis; outside 0 .. taps - 1 there is none."""
    if mode == "flipped":
        return position + taps - 1 - y
    if mode == "strided":
        return position + taps // 2 - 2 * y
    if mode == "nearest":
        return y - position // 2
    return y if mode == "spread" else y - step * position


@triton.constexpr_function
def extent(mode, taps, step, window):
    """Return how many inputs along one axis a window has."""
    if mode == "strided":
        return (taps + 1) // 2
    if mode == "nearest":
        return (window + 1) // 2
    return taps if mode == "spread" else taps + (window - 1) * (1 if mode == "flipped" else step)


@triton.constexpr_function
def slot(mode, taps, parities, row_position, column_position, row_tap, column_tap):
    """Return the place of a tap's matrix in the packed weight.

    With parities it holds 2x2 taps for each parity of the output's row and column. A pixel 2 y - 1 + k of the
    output, k = 0 .. 3, then has parity (k + 1) % 2 and read the small map's pixel y through tap 1 - k / 2.
    """
    if mode == "spread":
        if taps == 2:
            return 0
        quarter = (row_tap + 1) % 2 * 2 + (column_tap + 1) % 2
        return quarter * 4 + (1 - row_tap // 2) * 2 + 1 - column_tap // 2
    first = (row_position * 2 + column_position) * 4 if parities else 0
    return first + row_tap * taps + column_tap


@triton.jit
def zero_accumulators(
    WINDOW: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_OUT: tl.constexpr, ACCUMULATE: tl.constexpr
):
    """Return an accumulator for each position of a window."""
    accumulators = ()
    for _ in tl.static_range(WINDOW):
        accumulators += (tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE),)
    return accumulators


@triton.jit
def accumulate(
    accumulators,
    data_ptr,
    added_ptr,
    winner_ptr,
    affine_ptr,
    weight_ptr,
    sample,
    samples,
    first_row,
    first_column,
    wanted,
    produced,
    height,
    width,
    channels,
    produced_channels,
    slot_size,
    pitch,
    dilation,
    MODE: tl.constexpr,
    TAPS: tl.constexpr,
    STEP: tl.constexpr,
    PARITIES: tl.constexpr,
    WINDOW_ROWS: tl.constexpr,
    WINDOW_COLUMNS: tl.constexpr,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    RAW: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Add one source's products to the accumulators (BLOCK_PIXELS, BLOCK_OUT) of a window.

    Input (y, x) of a window is the source's pixel (first_row + y dilation, first_column + x dilation), see
    ``load_input``; with ``added_ptr`` the affine is that of ``load_statistics``. ``weight_ptr`` is at this source's
    matrix of the first tap, those of the other taps follow ``slot_size`` elements apart; ``pitch`` as in
    ``load_weight``. RAW: the weight is a 1x1 parameter as it is, (outputs, inputs). STAGES loads are in flight, or as
    many as the launch says if that is ``None``.
    """
    TRANSPOSED: tl.constexpr = RAW and (MODE == "forward" or MODE == "nearest")
    DTYPE: tl.constexpr = data_ptr.dtype.element_ty
    # None cannot be returned in a tuple before Triton 3.8.
    start = sample_start(sample, height, width, channels, winner_ptr is not None)
    data_ptr += start
    if added_ptr is not None:
        added_ptr += start
    if winner_ptr is not None:
        winner_ptr += start
    for first_channel in tl.range(0, channels, BLOCK_IN, num_stages=STAGES):
        channel = first_channel + tl.arange(0, BLOCK_IN)
        # Offsets of input (0, 0); those of the others are a constant away.
        origin = (first_row * width + first_column)[:, None] * channels + channel[None, :]
        center, scale, shift = 0.0, 0.0, 0.0
        if added_ptr is not None:
            center, scale, shift = load_statistics(affine_ptr, sample, samples, channel, channels, height * width)
        elif AFFINE > 0:
            center, scale, shift = load_read_affine(
                affine_ptr, sample, samples, channel, channels, AFFINE, DTYPE, PACKED
            )
        if WINDOW_ROWS * WINDOW_COLUMNS == 1 and TAPS == 3 and MODE != "spread":
            # A loop that the compiler can pipeline; nothing is shared between taps of a single position.
            for index in tl.range(9, num_stages=STAGES):
                h = load_input(
                    data_ptr,
                    added_ptr,
                    winner_ptr,
                    origin,
                    first_row,
                    first_column,
                    (index // 3) * dilation,
                    (index % 3) * dilation,
                    wanted,
                    height,
                    width,
                    channel,
                    channels,
                    center,
                    scale,
                    shift,
                    AFFINE,
                    RELU,
                    EXACT,
                    ACCUMULATE,
                    PACKED,
                    WIDEN,
                )
                w = load_weight(
                    weight_ptr + (index if MODE == "forward" else 8 - index) * slot_size,
                    pitch,
                    channel,
                    produced,
                    channels,
                    produced_channels,
                    TRANSPOSED,
                    EXACT,
                    DTYPE,
                    WIDEN,
                )
                accumulators = (tl.dot(h, w, accumulators[0], input_precision=PRECISION, out_dtype=ACCUMULATE),)
        else:
            for y in tl.static_range(extent(MODE, TAPS, STEP, WINDOW_ROWS)):
                for x in tl.static_range(extent(MODE, TAPS, STEP, WINDOW_COLUMNS)):
                    h = load_input(
                        data_ptr,
                        added_ptr,
                        winner_ptr,
                        origin,
                        first_row,
                        first_column,
                        y * dilation,
                        x * dilation,
                        wanted,
                        height,
                        width,
                        channel,
                        channels,
                        center,
                        scale,
                        shift,
                        AFFINE,
                        RELU,
                        EXACT,
                        ACCUMULATE,
                        PACKED,
                        WIDEN,
                    )
                    if TAPS == 1 and STEP == 0:
                        # An upsampled source under a 1x1 weight: one product for all positions.
                        w = load_weight(
                            weight_ptr,
                            pitch,
                            channel,
                            produced,
                            channels,
                            produced_channels,
                            TRANSPOSED,
                            EXACT,
                            DTYPE,
                            WIDEN,
                        )
                        product = tl.dot(h, w, input_precision=PRECISION, out_dtype=ACCUMULATE)
                        updated = ()
                        for p in tl.static_range(WINDOW_ROWS * WINDOW_COLUMNS):
                            updated += (accumulators[p] + product,)
                        accumulators = updated
                    else:
                        updated = ()
                        for p in tl.static_range(WINDOW_ROWS):
                            for q in tl.static_range(WINDOW_COLUMNS):
                                accumulator = accumulators[p * WINDOW_COLUMNS + q]
                                if (
                                    tap(MODE, TAPS, STEP, p, y) >= 0
                                    and tap(MODE, TAPS, STEP, p, y) < TAPS
                                    and tap(MODE, TAPS, STEP, q, x) >= 0
                                    and tap(MODE, TAPS, STEP, q, x) < TAPS
                                ):
                                    w = load_weight(
                                        weight_ptr
                                        + (
                                            slot(
                                                MODE,
                                                TAPS,
                                                PARITIES,
                                                p,
                                                q,
                                                tap(MODE, TAPS, STEP, p, y),
                                                tap(MODE, TAPS, STEP, q, x),
                                            )
                                        )
                                        * slot_size,
                                        pitch,
                                        channel,
                                        produced,
                                        channels,
                                        produced_channels,
                                        TRANSPOSED,
                                        EXACT,
                                        DTYPE,
                                        WIDEN,
                                    )
                                    accumulator = tl.dot(
                                        h, w, accumulator, input_precision=PRECISION, out_dtype=ACCUMULATE
                                    )
                                updated += (accumulator,)
                        accumulators = updated
    return accumulators


@triton.jit
def accumulate_sources(
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
    pitch,
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
    """Return the convolution of one or, unless ``TAPS2 == 0``, two sources at windows that start at (row, column).

    ``TAPS`` is 2 for a 3x3 weight on an upsampled source. The weight is packed (slots, inputs, pitch) with the inputs
    of both sources, ``weight_ptr`` at the first output.
    """
    inputs = channels
    if TAPS2 > 0:
        inputs += channels2
    accumulators = zero_accumulators(WINDOW_ROWS * WINDOW_COLUMNS, BLOCK_PIXELS, BLOCK_OUT, ACCUMULATE)
    accumulators = accumulate(
        accumulators,
        data_ptr,
        None,
        None,
        affine_ptr,
        weight_ptr,
        sample,
        samples,
        first_input_pixel(row_index, row, stride, dilation, TAPS, UPSAMPLE),
        first_input_pixel(column_index, column, stride, dilation, TAPS, UPSAMPLE),
        wanted,
        out_channel,
        height,
        width,
        channels,
        out_channels,
        inputs * pitch,
        inputs if TAPS == 1 else pitch,
        dilation,
        "forward",
        TAPS,
        0 if UPSAMPLE and TAPS == 1 else STEP,
        UPSAMPLE and TAPS == 2,
        WINDOW_ROWS,
        WINDOW_COLUMNS,
        AFFINE,
        RELU,
        TAPS == 1,
        BLOCK_IN,
        EXACT,
        ACCUMULATE,
        PRECISION,
        PACKED,
        WIDEN,
        None,
    )
    if TAPS2 > 0:
        accumulators = accumulate(
            accumulators,
            data2_ptr,
            None,
            None,
            affine2_ptr,
            weight_ptr + channels * (1 if TAPS2 == 1 else pitch),
            sample,
            samples,
            first_input_pixel(row_index, row, stride, dilation, TAPS2, UPSAMPLE2),
            first_input_pixel(column_index, column, stride, dilation, TAPS2, UPSAMPLE2),
            wanted,
            out_channel,
            height2,
            width2,
            channels2,
            out_channels,
            inputs * pitch,
            inputs if TAPS2 == 1 else pitch,
            dilation,
            "forward",
            TAPS2,
            0 if UPSAMPLE2 and TAPS2 == 1 else STEP,
            UPSAMPLE2 and TAPS2 == 2,
            WINDOW_ROWS,
            WINDOW_COLUMNS,
            AFFINE2,
            RELU2,
            TAPS2 == 1,
            BLOCK_IN,
            EXACT,
            ACCUMULATE,
            PRECISION,
            PACKED,
            WIDEN,
            None,
        )
    return accumulators
