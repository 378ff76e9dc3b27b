"""Sums of normalised convolutions: every pass computes the branches anew, so that none of them is ever kept.

With v = conv_k(h) + bias_k, rstd = 1 / sqrt(variance_k + eps_k) and the normalised v^ = (v - mean_k) rstd the passes
are

    statistics   mean and M2 of v, tile by tile
    sum          sum_k gamma_k v^ + beta_k; one program computes all branches
    reduction    sum dY v^ and sum dY, tile by tile: the gradients of gamma and beta
    gradient     dv = gamma rstd (dY - sum dY / P - v^ sum(dY v^) / P) over P pixels; without batch statistics the
                 terms from the sums are left out; and the gradient of the bias

The outputs of branch k start at k out_channels in the weight. Windows are those of
``window``; in the sum they have one row, since neighbours in a window lie a branch's dilation apart.
"""

import triton.language as tl

from .implicit_gemm import accumulate_sources, zero_accumulators
from .kernel import kernel
from .statistics import store_statistics
from .tile import load_block, load_vector, store_block
from .window import select, window_start


@kernel
def branch_kernel(
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
    gamma_ptr,
    beta_ptr,
    mean_ptr,
    variance_ptr,
    grad_ptr,
    grad_sum_ptr,
    count_out,
    tile_mean_out,
    tile_m2_out,
    total_out,
    tile_sum_out,
    grad_branch_out,
    grad_bias_out,
    samples,
    rows,
    columns,
    tiles,
    out_height,
    out_width,
    out_channels,
    stride,
    DILATIONS: tl.constexpr,
    EPS: tl.constexpr,
    PASS: tl.constexpr,
    BATCH_STATISTICS: tl.constexpr,
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
    """Compute one pass at a tile of windows: of the branch ``program_id(2)``, or of all branches for the sum.

    Vectors are (branches, out_channels); tile statistics (branches, samples * tiles, out_channels); tile sums and
    ``grad_sum`` have a 2 (sum dY v^, sum dY) before the branches; ``grad_branch`` starts with the branches.
    """
    sample = tl.program_id(0) // tiles
    index = (tl.program_id(0) % tiles) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    wanted = index < rows * columns
    row_index, column_index = index // columns, index % columns
    out_channel = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    within = out_channel < out_channels
    parts = samples * tiles
    base = sample.to(tl.int64) * out_height * out_width * out_channels
    image_size = tl.cast(samples, tl.int64) * out_height * out_width * out_channels
    branches: tl.constexpr = len(DILATIONS)
    inputs = channels
    if TAPS2 > 0:
        inputs += channels2
    first_branch = 0 if PASS == "sum" else tl.program_id(2)
    totals = zero_accumulators(WINDOW_ROWS * WINDOW_COLUMNS, BLOCK_PIXELS, BLOCK_OUT, ACCUMULATE)
    for branch in range(first_branch, branches if PASS == "sum" else first_branch + 1):
        dilation = select(branch, DILATIONS, tl.int32)
        row = window_start(row_index, dilation, WINDOW_ROWS)
        column = window_start(column_index, dilation, WINDOW_COLUMNS)
        values = accumulate_sources(
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
            weight_ptr + branch * out_channels * (inputs if TAPS == 1 else 1),
            sample,
            samples,
            row_index,
            column_index,
            row,
            column,
            wanted,
            out_channel,
            out_channels,
            branches * out_channels,
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
        vector = branch * out_channels + out_channel
        end = (branch + 1) * out_channels
        # The bias only shifts the deviation from the mean.
        bias = load_vector(bias_ptr, vector, end, EXACT).to(ACCUMULATE)
        offsets = ()
        masks = ()
        for p in tl.static_range(WINDOW_ROWS):
            for q in tl.static_range(WINDOW_COLUMNS):
                pixel_row = row + p * (1 if UPSAMPLE or UPSAMPLE2 else dilation)
                pixel_column = column + q * (1 if UPSAMPLE or UPSAMPLE2 else dilation)
                inside = wanted & (pixel_row < out_height) & (pixel_column < out_width)
                offset = (pixel_row * out_width + pixel_column)[:, None] * out_channels + out_channel[None, :]
                offsets += (base + offset,)
                masks += (inside[:, None] & within[None, :],)

        if PASS == "statistics":
            finished = ()
            for p in tl.static_range(len(values)):
                finished += (values[p] + bias[None, :],)
            tile = branch * parts + tl.program_id(0)
            store_statistics(
                finished, masks, count_out, tile_mean_out, tile_m2_out, tile, out_channel, out_channels, EXACT
            )
        else:
            mean = load_vector(mean_ptr, vector, end, EXACT) - bias
            variance = load_vector(variance_ptr, vector, end, EXACT)
            rstd = 1 / tl.sqrt(variance + select(branch, EPS, ACCUMULATE))
        if PASS == "sum":
            scale = load_vector(gamma_ptr, vector, end, EXACT) * rstd
            beta = load_vector(beta_ptr, vector, end, EXACT)
            updated = ()
            for p in tl.static_range(len(values)):
                updated += (totals[p] + (values[p] - mean[None, :]) * scale[None, :] + beta[None, :],)
            totals = updated
        if PASS == "reduction":
            product = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE)
            level = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), dtype=ACCUMULATE)
            for p in tl.static_range(len(values)):
                grad = load_block(grad_ptr + offsets[p], masks[p], EXACT).to(ACCUMULATE)
                level += grad
                product += grad * (values[p] - mean[None, :])
            place = (branch * parts + tl.program_id(0)) * out_channels + out_channel
            tl.store(tile_sum_out + place, tl.sum(product, axis=0) * rstd, mask=within)
            tl.store(tile_sum_out + place + branches * parts * out_channels, tl.sum(level, axis=0), mask=within)
        if PASS == "gradient":
            scale = load_vector(gamma_ptr, vector, end, EXACT) * rstd
            total = tl.load(grad_sum_ptr + branches * out_channels + vector, mask=within, other=0.0)
            grad_bias = scale * total
            if BATCH_STATISTICS:
                pixels = tl.cast(samples, ACCUMULATE) * out_height * out_width
                slope = tl.load(grad_sum_ptr + vector, mask=within, other=0.0) * rstd / pixels
                level = total / pixels
                # In front of such a BatchNorm a bias has no effect.
                grad_bias = tl.zeros((BLOCK_OUT,), dtype=ACCUMULATE)
            if tl.program_id(0) == 0:
                tl.store(grad_bias_out + vector, grad_bias.to(grad_bias_out.dtype.element_ty), mask=within)
            for p in tl.static_range(len(values)):
                grad = load_block(grad_ptr + offsets[p], masks[p], EXACT).to(ACCUMULATE)
                if BATCH_STATISTICS:
                    grad = grad - level[None, :] - (values[p] - mean[None, :]) * slope[None, :]
                result = (grad * scale[None, :]).to(grad_branch_out.dtype.element_ty)
                store_block(grad_branch_out + branch * image_size + offsets[p], result, masks[p], EXACT)
        if PASS == "sum":
            if branch == branches - 1:
                for p in tl.static_range(len(values)):
                    store_block(total_out + offsets[p], totals[p].to(total_out.dtype.element_ty), masks[p], EXACT)
