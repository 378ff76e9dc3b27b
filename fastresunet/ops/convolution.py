"""The one heavy operation: BatchNorm, ReLU, upsampling and concatenation while reading, convolution, fused write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastresunet.ops.backend import Backend, dispatching
from fastresunet.ops.checks import check_convolution
from fastresunet.ops.layout import channels_last, empty_image
from fastresunet.ops.library import differentiable, differentiable_once, operand_dtype, register
from fastresunet.ops.source import SCHEMA, Source, accumulation_dtype, convolution_size, flatten


class ConvOutput(NamedTuple):
    """Result of ``conv``: ``data`` (N, C, H, W) and, where asked for, its statistics ``mean`` and ``m2`` (N, C)."""

    data: Tensor
    mean: Tensor | None
    m2: Tensor | None


def conv(
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    gate_scale: Tensor | None = None,
    pool: bool = False,
    statistics: bool = True,
    backend: Backend = "auto",
) -> ConvOutput:
    """Convolve sources, concatenated along channels, with zero "same" padding, and finish the result as it is written.

    Every source is read through its affine, ReLU and upsampling; nothing of that is stored. The backward pass
    recomputes what was read, so that the only image kept per call is the raw output, shared with its consumers.

    Args:
        sources: what is read; equal sample counts and equal sizes as seen through ``upsample``.
        weight: (C_out, sum of source channels, k, k) with k = 1 or 3.
        bias: (C_out,).
        stride: 1 or 2; sources with ``upsample`` need 1.
        dilation: spacing of the taps in pixels; sources with ``upsample`` need 1.
        residual: added to the result, shape of the convolution's output.
        gate: multiplied with the result, shape of the convolution's output (attention gating).
        gate_scale: (N, C_out), multiplied with ``gate`` first.
        pool: write the 2x2 maximum; an odd last row or column is dropped.
        statistics: also return mean and M2 of what was written, differentiable.
        backend: what computes it.

    Returns:
        The data, channels-last, in the dtype of the operands (autocast's where it is on); its mean and M2 or ``None``.

    Raises:
        TypeError: dtypes do not fit.
        ValueError: shapes, devices or options do not fit; the message names what was given and what is expected.
    """
    check_convolution(sources, weight, bias, stride, dilation, residual, gate, gate_scale, pool)
    dtype = operand_dtype(sources[0].data, weight)
    data, affine, relu, upsample = flatten(sources, dtype)
    output, mean, m2, _ = _conv(
        data,
        affine,
        relu,
        upsample,
        weight,
        bias,
        stride,
        dilation,
        None if residual is None else channels_last(residual.to(dtype)),
        None if gate is None else channels_last(gate.to(dtype)),
        None if gate_scale is None else gate_scale.contiguous(),
        pool,
        statistics,
        backend,
    )
    return ConvOutput(output, mean, m2) if statistics else ConvOutput(output, None, None)


def _conv_shapes(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    dilation: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    pool: bool,
    statistics: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = (convolution_size(size, upsample[0], stride) for size in data[0].shape[2:])
    channels = weight.shape[0]
    if pool:
        height, width = height // 2, width // 2
    output = empty_image(data[0], channels, height, width)
    kept = data[0].new_empty(0)
    if pool:
        kept = empty_image(data[0].to(torch.uint8), channels, height, width)
    elif gate is not None:
        kept = torch.empty_like(output)
    vector = (data[0].shape[0], channels) if statistics else (0,)
    dtype = accumulation_dtype(output.dtype) if statistics else output.dtype
    return output, output.new_empty(vector, dtype=dtype), output.new_empty(vector, dtype=dtype), kept


_conv = register(
    f"conv({SCHEMA}, Tensor weight, Tensor? bias, int stride, int dilation, Tensor? residual, Tensor? gate, "
    "Tensor? gate_scale, bool pool, bool statistics, str backend) -> "
    "(Tensor output, Tensor mean, Tensor m2, Tensor kept)",
    dispatching("conv"),
    _conv_shapes,
)


def _conv_backward_shapes(
    grad: Tensor,
    statistics: Tensor | None,
    output: Tensor,
    kept: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    stride: int,
    dilation: int,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    pool: bool,
    has_residual: bool,
    needs_sources: bool,
    needs_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor]:
    layout = torch.channels_last
    return (
        torch.empty_like(grad, memory_format=layout) if has_residual else grad.new_empty(0),
        grad.new_empty(0) if gate is None else torch.empty_like(gate, memory_format=layout),
        grad.new_empty(0) if gate_scale is None else gate_scale.new_empty(gate_scale.shape),
        [torch.empty_like(x, memory_format=layout) if needs_sources else x.new_empty(0) for x in data],
        [v.new_empty(v.shape) if needs_sources else v.new_empty(0) for v in affine],
        weight.new_empty(weight.shape) if needs_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[0]) if needs_weight else weight.new_empty(0),
    )


_conv_backward = register(
    "conv_backward(Tensor grad, Tensor? statistics, Tensor output, Tensor kept, "
    f"{SCHEMA}, Tensor weight, int stride, int dilation, Tensor? gate, Tensor? gate_scale, bool pool, "
    "bool has_residual, bool needs_sources, bool needs_weight, str backend) -> (Tensor residual, Tensor gate, "
    "Tensor gate_scale, Tensor[] data, Tensor[] affine, Tensor weight, Tensor bias)",
    dispatching("conv_backward"),
    _conv_backward_shapes,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    (
        data,
        affine,
        relu,
        upsample,
        weight,
        bias,
        stride,
        dilation,
        residual,
        gate,
        gate_scale,
        pool,
        statistics,
        backend,
    ) = inputs
    written, mean, _, kept = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(kept, *(() if statistics else output[1:3]))
    if not statistics:
        written = mean = written.new_empty(0)
    ctx.save_for_backward(*data, *affine, weight, gate, gate_scale, written, mean, kept)
    ctx.source_count = len(data)
    ctx.options = (relu, upsample, stride, dilation, pool, backend)
    ctx.has_bias, ctx.has_residual = bias is not None, residual is not None
    ctx.output_shape = output[0].shape


def _backward(
    ctx: Any, grad: Tensor | None, grad_mean: Tensor | None, grad_m2: Tensor | None, _: Tensor | None
) -> tuple[Any, ...]:
    saved, count = ctx.saved_tensors, ctx.source_count
    data, affine = list(saved[:count]), list(saved[count : 2 * count])
    weight, gate, gate_scale, written, mean, kept = saved[2 * count :]
    relu, upsample, stride, dilation, pool, backend = ctx.options
    if grad is None:
        grad = data[0].new_zeros(ctx.output_shape)
    statistics = None
    if grad_mean is not None or grad_m2 is not None:
        given = [torch.zeros_like(mean) if vector is None else vector for vector in (grad_m2, grad_mean)]
        statistics = torch.stack([mean, *given])
    needs = ctx.needed
    needs_sources = any(needs[0]) or any(needs[1])
    grad_residual, grad_gate, grad_gate_scale, grad_data, grad_affine, grad_weight, grad_bias = _conv_backward(
        grad,
        statistics,
        written,
        kept,
        data,
        affine,
        relu,
        upsample,
        weight,
        stride,
        dilation,
        gate,
        gate_scale,
        pool,
        ctx.has_residual and statistics is not None,
        needs_sources,
        needs[4] or needs[5],
        backend,
    )
    return (
        grad_data if needs_sources else [None] * count,
        grad_affine if needs_sources else [None] * count,
        None,
        None,
        grad_weight if needs[4] else None,
        grad_bias if needs[5] else None,
        None,
        None,
        (grad if statistics is None else grad_residual) if ctx.has_residual else None,
        None if gate is None else grad_gate,
        None if gate_scale is None else grad_gate_scale,
        None,
        None,
        None,
    )


differentiable("conv", _setup_context, _backward)
differentiable_once("conv_backward")
