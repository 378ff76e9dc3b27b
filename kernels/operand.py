"""Reading operands inside kernels: features through affine and ReLU, and packed weights.

Features are channels-last: pixel (row, column) of a sample starts at ``(row * width + column) * channels``, and one
sample takes ``height * width * channels`` elements, counted from a 64-bit base.
"""

import triton
import triton.language as tl

# Two elements in one 32-bit register: subtract the centre, scale, shift, clamp; then zero what lies outside the image.
# One is the constant 1.0 twice: there is no packed subtraction before sm_90.
_PACKED = """{{
.reg .b32 one, deviation;
mov.b32 one, {one};
fma.rn.{kind} deviation, $1, one, $2;
fma.rn{relu}.{kind} deviation, deviation, $3, $4;
and.b32 $0, deviation, $5;
}}"""
PACKED_BFLOAT16 = tl.constexpr(_PACKED.format(one="0x3F803F80", kind="bf16x2", relu=""))
PACKED_BFLOAT16_RELU = tl.constexpr(_PACKED.format(one="0x3F803F80", kind="bf16x2", relu=".relu"))
PACKED_FLOAT16 = tl.constexpr(_PACKED.format(one="0x3C003C00", kind="f16x2", relu=""))
PACKED_FLOAT16_RELU = tl.constexpr(_PACKED.format(one="0x3C003C00", kind="f16x2", relu=".relu"))


@triton.jit
def load_affine(affine_ptr, sample, samples, channel, channels):
    """Load centre, scale and shift (BLOCK_IN,) of one sample from a (3, samples, channels) tensor."""
    pointer = affine_ptr + sample * channels + channel
    within = channel < channels
    center = tl.load(pointer, mask=within, other=0.0)
    scale = tl.load(pointer + samples * channels, mask=within, other=0.0)
    shift = tl.load(pointer + 2 * samples * channels, mask=within, other=0.0)
    return center, scale, shift


@triton.jit
def load_read_affine(affine_ptr, sample, samples, channel, channels, DTYPE: tl.constexpr, PACKED: tl.constexpr):
    """Load an affine as ``load_activated`` wants it.

    Packed arithmetic rounds all three to the features' dtype. The centre's rounding is made good in the shift, so that
    what is left is relative to the deviation from the centre, not to the mean.
    """
    center, scale, shift = load_affine(affine_ptr, sample, samples, channel, channels)
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
def load_activated(
    data_ptr,
    row,
    column,
    wanted,
    channel,
    height,
    width,
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

    The vectors are those of ``load_read_affine``. EXACT says that all pixels and channels of the block are wanted.
    """
    dtype: tl.constexpr = data_ptr.dtype.element_ty
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if not EXACT:
        inside = inside & wanted
    mask = inside[:, None]
    if not EXACT:
        mask = mask & (channel < channels)[None, :]
    pixel = row * width + column
    x = tl.load(data_ptr + pixel[:, None] * channels + channel[None, :], mask=mask, other=0.0)
    if AFFINE and PACKED:
        if dtype == tl.bfloat16:
            assembly: tl.constexpr = PACKED_BFLOAT16_RELU if RELU else PACKED_BFLOAT16
        else:
            assembly: tl.constexpr = PACKED_FLOAT16_RELU if RELU else PACKED_FLOAT16
        keep = tl.where(inside, -1, 0).to(tl.int16)
        h = tl.inline_asm_elementwise(
            assembly,
            "=r,r,r,r,r,r",
            [x, center[None, :], scale[None, :], shift[None, :], keep[:, None]],
            dtype=x.dtype,
            is_pure=True,
            pack=2,
        )
    elif AFFINE or RELU:
        h = x.to(ACCUMULATE)
        if AFFINE:
            h = (h - center[None, :]) * scale[None, :] + shift[None, :]
        if RELU:
            # Not tl.maximum: NaN must stay NaN.
            h = tl.where(h < 0, 0.0, h)
        h = operand(tl.where(mask, h, 0.0), dtype, WIDEN)
    else:
        h = operand(x, dtype, WIDEN)
    return h


@triton.jit
def load_weight(
    weight_ptr,
    slot,
    first_input,
    inputs,
    outputs,
    reduced,
    produced,
    reduced_end,
    produced_end,
    TRANSPOSED: tl.constexpr,
    EXACT: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Load one matrix (BLOCK_IN, BLOCK_OUT) of a packed weight (slots, inputs, outputs).

    The reduction runs over its inputs, from ``first_input`` on, and the product over its outputs; TRANSPOSED exchanges
    the two, for the gradient of the inputs.
    """
    dtype: tl.constexpr = weight_ptr.dtype.element_ty
    base = weight_ptr + (slot * inputs + first_input) * outputs
    if TRANSPOSED:
        pointer = base + produced[:, None] * outputs + reduced[None, :]
        mask = (produced < produced_end)[:, None] & (reduced < reduced_end)[None, :]
    else:
        pointer = base + reduced[:, None] * outputs + produced[None, :]
        mask = (reduced < reduced_end)[:, None] & (produced < produced_end)[None, :]
    if EXACT:
        w = tl.load(pointer)
    else:
        w = tl.load(pointer, mask=mask, other=0.0)
    if TRANSPOSED:
        w = tl.trans(w)
    return operand(w, dtype, WIDEN)
