"""Reading operands inside kernels: features through affine and ReLU, and packed weights.

Features are channels-last: pixel (row, column) of a sample starts at ``(row * width + column) * channels``, and one
sample takes ``height * width * channels`` elements, counted from a 64-bit base.
"""

import triton
import triton.language as tl

from .tile import load_block

# Two elements in one 32-bit register: subtract the centre, scale, shift, clamp; then zero what lies outside the image.
# One is the constant 1.0 twice: there is no packed subtraction before sm_90.
_PACKED = """{{
.reg .b32 one, deviation;
mov.b32 one, {one};
fma.rn.{kind} deviation, $1, one, $2;
fma.rn{relu}.{kind} deviation, deviation, $3, $4;
and.b32 $0, deviation, $5;
}}"""
# A scale alone: added to -0.0, which leaves every product as it is.
_PACKED_SCALE = """{{
.reg .b32 nothing, scaled;
mov.b32 nothing, 0x80008000;
fma.rn.{kind} scaled, $1, $2, nothing;
and.b32 $0, scaled, $3;
}}"""
PACKED_BFLOAT16_SCALE = tl.constexpr(_PACKED_SCALE.format(kind="bf16x2"))
PACKED_FLOAT16_SCALE = tl.constexpr(_PACKED_SCALE.format(kind="f16x2"))
PACKED_BFLOAT16 = tl.constexpr(_PACKED.format(one="0x3F803F80", kind="bf16x2", relu=""))
PACKED_BFLOAT16_RELU = tl.constexpr(_PACKED.format(one="0x3F803F80", kind="bf16x2", relu=".relu"))
PACKED_FLOAT16 = tl.constexpr(_PACKED.format(one="0x3C003C00", kind="f16x2", relu=""))
PACKED_FLOAT16_RELU = tl.constexpr(_PACKED.format(one="0x3C003C00", kind="f16x2", relu=".relu"))


@triton.jit
def load_affine(affine_ptr, sample, samples, channel, channels, AFFINE: tl.constexpr):
    """Load centre, scale and shift (BLOCK_IN,) of one sample from an (AFFINE, samples, channels) tensor.

    AFFINE is 3, or 1 for a scale alone.
    """
    pointer = affine_ptr + sample * channels + channel
    within = channel < channels
    if AFFINE == 1:
        scale = tl.load(pointer, mask=within, other=0.0)
        center = tl.zeros(scale.shape, dtype=scale.dtype)
        shift = center
    else:
        center = tl.load(pointer, mask=within, other=0.0)
        scale = tl.load(pointer + samples * channels, mask=within, other=0.0)
        shift = tl.load(pointer + 2 * samples * channels, mask=within, other=0.0)
    return center, scale, shift


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
    if AFFINE == 1 and PACKED and not RELU:
        keep = tl.where(inside, -1, 0).to(tl.int16)
        h = tl.inline_asm_elementwise(
            PACKED_BFLOAT16_SCALE if dtype == tl.bfloat16 else PACKED_FLOAT16_SCALE,
            "=r,r,r,r",
            [x, scale[None, :], keep[:, None]],
            dtype=x.dtype,
            is_pure=True,
            pack=2,
        )
    elif AFFINE > 0 and PACKED:
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
    RAW: tl.constexpr,
    EXACT: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Load one matrix (BLOCK_IN, BLOCK_OUT) of a weight packed as (slots, inputs, outputs).

    The reduction runs over its inputs, from ``first_input`` on, and the product over its outputs; TRANSPOSED exchanges
    the two, for the gradient of the inputs. RAW: the weight is a 1x1 parameter as it is, (outputs, inputs).
    """
    if RAW:
        base, input_pitch, output_pitch = weight_ptr + first_input, 1, inputs
    else:
        base, input_pitch, output_pitch = weight_ptr + (slot * inputs + first_input) * outputs, outputs, 1
    if TRANSPOSED:
        reduced_pitch, produced_pitch = output_pitch, input_pitch
    else:
        reduced_pitch, produced_pitch = input_pitch, output_pitch
    # Load along the contiguous direction.
    if TRANSPOSED != RAW:
        pointer = base + produced[:, None] * produced_pitch + reduced[None, :] * reduced_pitch
        mask = (produced < produced_end)[:, None] & (reduced < reduced_end)[None, :]
    else:
        pointer = base + reduced[:, None] * reduced_pitch + produced[None, :] * produced_pitch
        mask = (reduced < reduced_end)[:, None] & (produced < produced_end)[None, :]
    w = load_block(pointer, mask, EXACT)
    if TRANSPOSED != RAW:
        w = tl.trans(w)
    return operand(w, DTYPE, WIDEN)
