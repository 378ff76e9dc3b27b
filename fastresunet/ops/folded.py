"""The operations of folded inference: convolutions from weights that were packed beforehand. They have no gradient.

An affine is that of a ``Source``, or (2, C) with scale and shift of all samples. Images are channels-last, of one
dtype. A packed weight of a 3x3 convolution is (9, inputs, outputs), the taps in reading order. With a source read at
twice its resolution it has 16 matrices, for its inputs those of ``parity_weight``: (row parity, column parity, 2, 2).
"""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

from fastresunet.ops.backend import dispatching
from fastresunet.ops.layout import empty_image
from fastresunet.ops.library import differentiable, register
from fastresunet.ops.source import SCHEMA, accumulation_dtype, convolution_size


def _conv_shapes(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor,
    stride: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    sign: Tensor | None,
    backend: str,
) -> Tensor:
    height, width = (convolution_size(size, upsample[0], stride) for size in data[0].shape[2:])
    if sign is not None:
        height, width = height // 2, width // 2
    return empty_image(data[0], bias.shape[0], height, width)


def _excited_conv_shapes(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    weight: Tensor,
    bias: Tensor,
    side: list[Tensor],
    side_affine: list[Tensor],
    side_upsample: list[bool],
    side_weight: Tensor,
    side_stride: int,
    weight1: Tensor,
    weight2: Tensor,
    scale: Tensor,
    shift: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    first, channels = data[0], bias.shape[0]
    dtype = accumulation_dtype(first.dtype)
    return (
        empty_image(first, channels, *first.shape[2:]),
        first.new_empty((first.shape[0], channels), dtype=dtype),
        first.new_empty((scale.shape[0], 3, first.shape[0], channels), dtype=dtype),
    )


def _pyramid_shapes(
    data: Tensor, affine: Tensor, weight: Tensor, bias: Tensor, rates: list[int], backend: str
) -> Tensor:
    return empty_image(data, bias.shape[0], *data.shape[2:])


# A 3x3 convolution of one or two sources with a bias: plus ``residual``; times ``gate`` (times ``gate_scale`` (N, O));
# with ``sign`` (O) the 2x2 maximum times it.
folded_conv = register(
    f"folded_conv({SCHEMA}, Tensor weight, Tensor bias, int stride, Tensor? residual, Tensor? gate, "
    "Tensor? gate_scale, Tensor? sign, str backend) -> Tensor",
    dispatching("folded_conv"),
    _conv_shapes,
)

# The end of a residual block: a 3x3 convolution plus a 1x1 convolution ``side_weight`` (O, inputs) of other sources;
# its squeeze-and-excitation (N, O); and for readers with ``scale`` and ``shift`` (readers, O) the affines
# (readers, 3, N, O) that include it.
folded_excited_conv = register(
    "folded_excited_conv(Tensor[] data, Tensor[] affine, bool[] relu, Tensor weight, Tensor bias, Tensor[] side, "
    "Tensor[] side_affine, bool[] side_upsample, Tensor side_weight, int side_stride, Tensor weight1, Tensor weight2, "
    "Tensor scale, Tensor shift, str backend) -> (Tensor output, Tensor gate, Tensor affine)",
    dispatching("folded_excited_conv"),
    _excited_conv_shapes,
)

# The sum of 3x3 convolutions ``weight`` (rates, 9, I, O), one for each dilation; only the first has a centre.
folded_pyramid = register(
    "folded_pyramid(Tensor data, Tensor affine, Tensor weight, Tensor bias, int[] rates, str backend) -> Tensor",
    dispatching("folded_pyramid"),
    _pyramid_shapes,
)


def _refuse(ctx: Any, *grads: Tensor | None) -> NoReturn:
    raise NotImplementedError(
        'the kernels of folded networks are for inference and have no gradient; use fold(model, backend="torch")'
    )


for _name in ("folded_conv", "folded_excited_conv", "folded_pyramid"):
    differentiable(_name, lambda ctx, arguments, results: None, _refuse)
