"""Reading operands inside kernels: features through affine and ReLU, and packed weights.

Features are channels-last: pixel (row, column) of a sample starts at ``(row * width + column) * channels``, and one
sample takes ``height * width * channels`` elements, counted from a 64-bit base.
"""

import triton
import triton.language as tl

from .tile import load_block

# What a thread has of a 16-byte vector: eight elements, two in each 32-bit register.
PACK = tl.constexpr(8)


def _packed_assembly(kind: str, constants: str, steps: str, operands: int) -> str:
    """Return inline PTX that applies ``steps`` to every register of a vector.

    Args:
        kind: ``"bf16x2"`` or ``"f16x2"``.
        constants: declares and sets registers that all steps use.
        steps: template of ``{kind}``, the result ``{0}`` and the operands ``{1}``, ``{2}`` ...
        operands: how many of them there are.
    """
    registers = PACK.value // 2
    lines = [
        steps.format(*(f"${operand * registers + k}" for operand in range(operands + 1)), kind=kind)
        for k in range(registers)
    ]
    return "\n".join(["{", constants, *lines, "}"])


def _constraints(operands: int) -> str:
    registers = PACK.value // 2
    return ",".join(["=r"] * registers + ["r"] * registers * operands)


# Subtract the centre, scale, shift, clamp; then zero what lies outside the image. The constant is 1.0 twice: there is
# no packed subtraction before sm_90.
_AFFINE = """fma.rn.{{kind}} deviation, {{1}}, one, {{2}};
fma.rn{relu}.{{kind}} deviation, deviation, {{3}}, {{4}};
and.b32 {{0}}, deviation, {{5}};"""
_ONE = ".reg .b32 one, deviation; mov.b32 one, {};"
PACKED_BFLOAT16 = tl.constexpr(_packed_assembly("bf16x2", _ONE.format("0x3F803F80"), _AFFINE.format(relu=""), 5))
PACKED_BFLOAT16_RELU = tl.constexpr(
    _packed_assembly("bf16x2", _ONE.format("0x3F803F80"), _AFFINE.format(relu=".relu"), 5)
)
PACKED_FLOAT16 = tl.constexpr(_packed_assembly("f16x2", _ONE.format("0x3C003C00"), _AFFINE.format(relu=""), 5))
PACKED_FLOAT16_RELU = tl.constexpr(
    _packed_assembly("f16x2", _ONE.format("0x3C003C00"), _AFFINE.format(relu=".relu"), 5)
)
PACKED_CONSTRAINTS = tl.constexpr(_constraints(5))
# A scale alone: added to -0.0, which leaves every product as it is.
_SCALE = "fma.rn.{kind} scaled, {1}, {2}, nothing; and.b32 {0}, scaled, {3};"
_NOTHING = ".reg .b32 nothing, scaled; mov.b32 nothing, 0x80008000;"
PACKED_BFLOAT16_SCALE = tl.constexpr(_packed_assembly("bf16x2", _NOTHING, _SCALE, 3))
PACKED_FLOAT16_SCALE = tl.constexpr(_packed_assembly("f16x2", _NOTHING, _SCALE, 3))
PACKED_SCALE_CONSTRAINTS = tl.constexpr(_constraints(3))
# A ReLU alone; what lies outside the image is 0 already. NaN stays NaN.
_CLAMP = "max.NaN.{kind} {0}, {1}, zero;"
_ZERO = ".reg .b32 zero; mov.b32 zero, 0;"
PACKED_BFLOAT16_CLAMP = tl.constexpr(_packed_assembly("bf16x2", _ZERO, _CLAMP, 1))
PACKED_FLOAT16_CLAMP = tl.constexpr(_packed_assembly("f16x2", _ZERO, _CLAMP, 1))
PACKED_CLAMP_CONSTRAINTS = tl.constexpr(_constraints(1))


@triton.jit
def load_affine(affine_ptr, sample, samples, channel, channels, AFFINE: tl.constexpr):
    """Load centre, scale and shift (BLOCK_IN,) of one sample from an (AFFINE, samples, channels) tensor.

    AFFINE is 3, or 1 for a scale alone; 2: scale and shift of all samples from a (2, channels) tensor.
    """
    pointer = affine_ptr + sample * channels + channel
    within = channel < channels
    if AFFINE == 1:
        scale = tl.load(pointer, mask=within, other=0.0)
        center = tl.zeros(scale.shape, dtype=scale.dtype)
        shift = center
    elif AFFINE == 2:
        scale = tl.load(affine_ptr + channel, mask=within, other=0.0)
        shift = tl.load(affine_ptr + channels + channel, mask=within, other=0.0)
        center = tl.zeros(scale.shape, dtype=scale.dtype)
    else:
        center = tl.load(pointer, mask=within, other=0.0)
        scale = tl.load(pointer + samples * channels, mask=within, other=0.0)
        shift = tl.load(pointer + 2 * samples * channels, mask=within, other=0.0)
    return center, scale, shift


@triton.jit
def load_statistics(statistics_ptr, sample, samples, channel, channels, pixels):
    """Load the affine that a map is added with for the gradients of its statistics.

    ``statistics_ptr`` is at (mean, dM2, dmean), each (samples, channels); the affine is (y - mean) 2 dM2 + dmean / P.
    """
    mean, grad_m2, grad_mean = load_affine(statistics_ptr, sample, samples, channel, channels, 3)
    return mean, 2 * grad_m2, grad_mean / pixels


@triton.jit
def load_read_affine(
    affine_ptr, sample, samples, channel, channels, AFFINE: tl.constexpr, DTYPE: tl.constexpr, PACKED: tl.constexpr
):
    """Load an affine as ``load_activated`` wants it.

    Packed arithmetic rounds all three to the features' dtype. The centre's rounding is made good in the shift, so that
    what is left is relative to the deviation from the centre, not to the mean.
    """
    center, scale, shift = load_affine(affine_ptr, sample, samples, channel, channels, AFFINE)
    if PACKED:
        rounded = center.to(DTYPE)
        shift += (rounded.to(tl.float32) - center) * scale
        result = (-rounded, scale.to(DTYPE), shift.to(DTYPE))
    else:
        result = (center, scale, shift)
    return result


@triton.jit
def operand(x, DTYPE: tl.constexpr, WIDEN: tl.constexpr):
    """Round to the operands' dtype; the interpreter then needs float32 to multiply."""
    x = x.to(DTYPE)
    if WIDEN:
        x = x.to(tl.float32)
    return x


@triton.jit
def lies_within(index, size):
    """Return ``0 <= index < size`` by one comparison: a negative index is a large unsigned number."""
    return tl.cast(index, tl.uint32, bitcast=True) < tl.cast(size, tl.uint32)


@triton.jit
def load_activated(
    data_ptr,
    added_ptr,
    offset,
    inside,
    channel,
    channels,
    center,
    scale,
    shift,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Load pixels (BLOCK_PIXELS, BLOCK_IN) through affine and ReLU; zero outside the image, after both.

    The vectors are those of ``load_read_affine``. EXACT says that all channels of the block are wanted. What lies at
    the same offsets behind ``added_ptr``, unless that is ``None``, is added after the affine; the sum is rounded once.
    """
    dtype: tl.constexpr = data_ptr.dtype.element_ty
    mask = inside[:, None]
    if not EXACT:
        mask = mask & (channel < channels)[None, :]
    x = tl.load(data_ptr + offset, mask=mask, other=0.0)
    if added_ptr is not None:
        h = (x.to(ACCUMULATE) - center[None, :]) * scale[None, :] + shift[None, :]
        h += tl.load(added_ptr + offset, mask=mask, other=0.0).to(ACCUMULATE)
        h = operand(tl.where(mask, h, 0.0), dtype, WIDEN)
    elif AFFINE == 1 and PACKED and not RELU:
        keep = tl.where(inside, -1, 0).to(tl.int16)
        h = tl.inline_asm_elementwise(
            PACKED_BFLOAT16_SCALE if dtype == tl.bfloat16 else PACKED_FLOAT16_SCALE,
            PACKED_SCALE_CONSTRAINTS,
            [x, scale[None, :], keep[:, None]],
            dtype=x.dtype,
            is_pure=True,
            pack=PACK,
        )
    elif AFFINE == 0 and PACKED and RELU:
        h = tl.inline_asm_elementwise(
            PACKED_BFLOAT16_CLAMP if dtype == tl.bfloat16 else PACKED_FLOAT16_CLAMP,
            PACKED_CLAMP_CONSTRAINTS,
            [x],
            dtype=x.dtype,
            is_pure=True,
            pack=PACK,
        )
    elif AFFINE > 0 and PACKED:
        if dtype == tl.bfloat16:
            assembly: tl.constexpr = PACKED_BFLOAT16_RELU if RELU else PACKED_BFLOAT16
        else:
            assembly: tl.constexpr = PACKED_FLOAT16_RELU if RELU else PACKED_FLOAT16
        keep = tl.where(inside, -1, 0).to(tl.int16)
        h = tl.inline_asm_elementwise(
            assembly,
            PACKED_CONSTRAINTS,
            [x, center[None, :], scale[None, :], shift[None, :], keep[:, None]],
            dtype=x.dtype,
            is_pure=True,
            pack=PACK,
        )
    elif AFFINE > 0 or RELU:
        h = x.to(ACCUMULATE)
        if AFFINE > 0:
            h = (h - center[None, :]) * scale[None, :] + shift[None, :]
        if RELU:
            # Not tl.maximum: NaN must stay NaN.
            h = tl.where(h < 0, 0.0, h)
        h = operand(tl.where(mask, h, 0.0), dtype, WIDEN)
    else:
        h = operand(x, dtype, WIDEN)
    return h


@triton.jit
def load_unpooled(
    grad_ptr,
    winner_ptr,
    row,
    column,
    inside,
    width,
    channel,
    channels,
    EXACT: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Load pixels (BLOCK_PIXELS, BLOCK_IN) of the gradient of what a 2x2 maximum was taken of: zero for the losers.

    ``width`` is that before the pooling; the winner is one of 2 (row % 2) + column % 2.
    """
    mask = inside[:, None]
    if not EXACT:
        mask = mask & (channel < channels)[None, :]
    offset = ((row >> 1) * (width // 2) + (column >> 1))[:, None] * channels + channel[None, :]
    grad = tl.load(grad_ptr + offset, mask=mask, other=0.0)
    winner = tl.load(winner_ptr + offset, mask=mask, other=0).to(tl.int32)
    position = (row & 1) * 2 + (column & 1)
    return operand(tl.where(winner == position[:, None], grad, 0.0), grad_ptr.dtype.element_ty, WIDEN)


@triton.jit
def sample_start(sample, height, width, channels, POOLED: tl.constexpr):
    """Return the first element of a sample; pooled images are of the pooled size."""
    start = sample.to(tl.int64) * height * width * channels
    if POOLED:
        start = sample.to(tl.int64) * (height // 2) * (width // 2) * channels
    return start


@triton.jit
def load_input(
    data_ptr,
    added_ptr,
    winner_ptr,
    origin,
    first_row,
    first_column,
    y,
    x,
    wanted,
    height,
    width,
    channel,
    channels,
    center,
    scale,
    shift,
    AFFINE: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Load the pixels (first_row + y, first_column + x) of one sample: activated, or as before a maximum's pooling.

    ``origin`` are the offsets of pixels (first_row, first_column); (height, width) is the size before a pooling, which
    drops an odd last row or column.
    """
    if winner_ptr is not None:
        row, column = first_row + y, first_column + x
        h = load_unpooled(
            data_ptr,
            winner_ptr,
            row,
            column,
            lies_within(row, height // 2 * 2) & lies_within(column, width // 2 * 2) & wanted,
            width,
            channel,
            channels,
            EXACT,
            WIDEN,
        )
    else:
        step = (y * width + x) * channels
        h = load_activated(
            data_ptr + step,
            None if added_ptr is None else added_ptr + step,
            origin,
            lies_within(first_row + y, height) & lies_within(first_column + x, width) & wanted,
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
    return h


@triton.jit
def load_weight(
    weight_ptr,
    pitch,
    reduced,
    produced,
    reduced_end,
    produced_end,
    TRANSPOSED: tl.constexpr,
    EXACT: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Load a matrix (BLOCK_IN, BLOCK_OUT) from one with ``pitch`` elements a row.

    Rows are what the product sums over and columns what it produces; TRANSPOSED: the other way round.
    """
    if TRANSPOSED:
        pointer = weight_ptr + produced[:, None] * pitch + reduced[None, :]
        mask = (produced < produced_end)[:, None] & (reduced < reduced_end)[None, :]
        w = tl.trans(load_block(pointer, mask, EXACT))
    else:
        pointer = weight_ptr + reduced[:, None] * pitch + produced[None, :]
        mask = (reduced < reduced_end)[:, None] & (produced < produced_end)[None, :]
        w = load_block(pointer, mask, EXACT)
    return operand(w, DTYPE, WIDEN)
