"""The sum of convolutions each followed by BatchNorm: residual shortcut (one branch), ASPP (one for each rate)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastresunet.ops.backend import Backend, compute, dispatching
from fastresunet.ops.branch import Branch
from fastresunet.ops.checks import check_branches
from fastresunet.ops.layout import empty_image
from fastresunet.ops.library import autocasting, differentiable, differentiable_once, operand_dtype, register
from fastresunet.ops.source import SCHEMA, Source, accumulation_dtype, convolution_size, flatten


def conv_norm_sum(
    sources: Sequence[Source], branches: Sequence[Branch], *, stride: int = 1, backend: Backend = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``sum_k BatchNorm_k(conv_k(sources))``; no single branch is kept for the backward pass, it is recomputed.

    Args:
        sources: what every branch reads, concatenated along channels.
        branches: convolutions with their normalisations; either all with batch or all with running statistics.
        stride: 1 or 2, for all branches.
        backend: what computes it.

    Returns:
        The sum (N, C_out, H, W), channels-last; the batch's mean and biased variance (branches, C_out), not
        differentiable and empty for running statistics.

    Raises:
        TypeError: dtypes do not fit.
        ValueError: shapes, devices or options do not fit.
    """
    check_branches(sources, branches, stride)
    dtype = operand_dtype(sources[0].data, branches[0].weight)
    weight, bias, gamma, beta, running_mean, running_var = (
        [vector for vector in (getattr(branch, name) for branch in branches) if vector is not None]
        for name in ("weight", "bias", "gamma", "beta", "running_mean", "running_var")
    )
    data, affine, relu, upsample = flatten(sources, dtype)
    total, mean, variance, _ = _conv_norm_sum(
        data,
        affine,
        relu,
        upsample,
        weight,
        bias,
        stride,
        [branch.dilation for branch in branches],
        gamma,
        beta,
        [branch.eps for branch in branches],
        running_mean,
        running_var,
        backend,
    )
    return total, mean, variance


def _forward(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: list[Tensor],
    stride: int,
    dilation: list[int],
    gamma: list[Tensor],
    beta: list[Tensor],
    eps: list[float],
    running_mean: list[Tensor],
    running_var: list[Tensor],
    backend: Backend,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(data[0].dtype)
    stacked = _stacked([group for group in (bias, gamma, beta, running_mean, running_var) if group], dtype)
    rows = (*stacked, None, None)[:5]
    operands = (data, affine, relu, upsample, weight, rows[0], stride, dilation, *rows[1:3], eps, *rows[3:])
    total, mean, variance = compute(backend, "conv_norm_sum", *operands)
    # Vectors of a single branch are parameters, not copies of them.
    return total, mean, variance, stacked if isinstance(stacked, Tensor) else mean.new_empty(0)


def _stacked(groups: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> Tensor | list[Tensor]:
    """Return vectors (branches, C) of each group, as one tensor where they have to be copied together."""
    vectors = [[vector.to(dtype) for vector in group] for group in groups]
    if len(groups[0]) == 1:
        return [vector[None].contiguous() for (vector,) in vectors]
    return torch.stack([vector for group in vectors for vector in group]).unflatten(0, (len(groups), -1))


def _shapes(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: list[Tensor],
    stride: int,
    dilation: list[int],
    gamma: list[Tensor],
    beta: list[Tensor],
    eps: list[float],
    running_mean: list[Tensor],
    running_var: list[Tensor],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = (convolution_size(size, upsample[0], stride) for size in data[0].shape[2:])
    branches, channels, dtype = len(weight), weight[0].shape[0], accumulation_dtype(data[0].dtype)
    batch = (0,) if running_mean else (branches, channels)
    groups = 5 if running_mean else 3
    stacked = (0,) if branches == 1 else (groups, branches, channels)
    mean, variance, vectors = (data[0].new_empty(shape, dtype=dtype) for shape in (batch, batch, stacked))
    return empty_image(data[0], channels, height, width), mean, variance, vectors


_conv_norm_sum = register(
    f"conv_norm_sum({SCHEMA}, Tensor[] weight, Tensor[] bias, int stride, int[] dilation, Tensor[] gamma, "
    "Tensor[] beta, float[] eps, Tensor[] running_mean, Tensor[] running_var, str backend) -> "
    "(Tensor total, Tensor mean, Tensor variance, Tensor stacked)",
    _forward,
    _shapes,
)


def _backward_shapes(
    grad: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: Tensor,
    stride: int,
    dilation: list[int],
    gamma: Tensor,
    eps: list[float],
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    needs_sources: bool,
    needs_weight: bool,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    layout = torch.channels_last
    return (
        [torch.empty_like(x, memory_format=layout) if needs_sources else x.new_empty(0) for x in data],
        [v.new_empty(v.shape) if needs_sources else v.new_empty(0) for v in affine],
        [w.new_empty(w.shape if needs_weight else 0) for w in weight],
        torch.empty_like(bias),
        gamma.new_empty((2, *gamma.shape)),
    )


_conv_norm_sum_backward = register(
    f"conv_norm_sum_backward(Tensor grad, {SCHEMA}, Tensor[] weight, Tensor bias, int stride, int[] dilation, "
    "Tensor gamma, float[] eps, Tensor mean, Tensor variance, bool batch_statistics, bool needs_sources, "
    "bool needs_weight, str backend) -> (Tensor[] data, Tensor[] affine, Tensor[] weight, Tensor bias, "
    "Tensor gamma_beta)",
    dispatching("conv_norm_sum_backward"),
    _backward_shapes,
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
        gamma,
        _,
        eps,
        running_mean,
        running_var,
        backend,
    ) = inputs
    _, mean, variance, stacked = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean, variance, stacked)
    kept = [*bias, *gamma, *(running_mean or [mean]), *(running_var or [variance])]
    if len(weight) > 1:
        kept = [stacked] if running_mean else [stacked, mean, variance]
    ctx.save_for_backward(*data, *affine, *weight, *kept)
    ctx.counts = (len(data), len(weight))
    ctx.dtypes = (bias[0].dtype, gamma[0].dtype)
    ctx.options = (relu, upsample, stride, dilation, eps, not running_mean, backend)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    sources, branches = ctx.counts
    if grad is None:
        return tuple(None for _ in ctx.needed)
    saved = list(ctx.saved_tensors)
    data, affine, weight = saved[:sources], saved[sources : 2 * sources], saved[2 * sources :][:branches]
    kept = saved[2 * sources + branches :]
    relu, upsample, stride, dilation, eps, batch_statistics, backend = ctx.options
    dtype = accumulation_dtype(data[0].dtype)
    if branches > 1:
        bias, gamma, _, *running = kept[0]
        mean, variance = kept[1:] if batch_statistics else running
    else:
        bias, gamma, mean, variance = (vector.to(dtype).contiguous().view(1, -1) for vector in kept)
    needs_sources = any(ctx.needed[0]) or any(ctx.needed[1])
    needs_weight = any(ctx.needed[4])
    grad_data, grad_affine, grad_weight, grad_bias, grad_gamma_beta = _conv_norm_sum_backward(
        grad,
        data,
        affine,
        relu,
        upsample,
        weight,
        bias,
        stride,
        dilation,
        gamma,
        eps,
        mean,
        variance,
        batch_statistics,
        needs_sources,
        needs_weight,
        backend,
    )
    return (
        grad_data if needs_sources else [None] * sources,
        grad_affine if needs_sources else [None] * sources,
        None,
        None,
        grad_weight if needs_weight else [None] * branches,
        list(grad_bias.to(ctx.dtypes[0])),
        None,
        None,
        *map(list, grad_gamma_beta.to(ctx.dtypes[1])),
        None,
        None,
        None,
        None,
    )


differentiable("conv_norm_sum", _setup_context, _backward)
autocasting("conv_norm_sum", 0)
differentiable_once("conv_norm_sum_backward")
