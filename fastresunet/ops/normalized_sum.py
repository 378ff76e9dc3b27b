"""The sum of convolutions each followed by BatchNorm: residual shortcut (one branch), ASPP (one for each rate)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastresunet.ops.backend import Backend, dispatching
from fastresunet.ops.branch import Branch
from fastresunet.ops.checks import check_branches
from fastresunet.ops.layout import empty_image
from fastresunet.ops.library import differentiable, differentiable_once, operand_dtype, register
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
    gamma, beta, *running = _stacked_vectors(branches, accumulation_dtype(dtype))
    running_mean, running_var = running or (None, None)
    data, affine, relu, upsample = flatten(sources, dtype)
    total, mean, variance = _conv_norm_sum(
        data,
        affine,
        relu,
        upsample,
        [branch.weight for branch in branches],
        [branch.bias for branch in branches],
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


def _stacked_vectors(branches: Sequence[Branch], dtype: torch.dtype) -> list[Tensor]:
    """Return gamma, beta and, where there are any, running mean and variance, each (branches, C)."""
    names = ["gamma", "beta"] + (["running_mean", "running_var"] if branches[0].running_mean is not None else [])
    vectors = [[getattr(branch, name).to(dtype) for branch in branches] for name in names]
    if len(branches) == 1:
        return [vector[None] for (vector,) in vectors]
    return list(torch.stack([vector for group in vectors for vector in group]).view(len(names), len(branches), -1))


def _shapes(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: list[Tensor],
    stride: int,
    dilation: list[int],
    gamma: Tensor,
    beta: Tensor,
    eps: list[float],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = (convolution_size(size, upsample[0], stride) for size in data[0].shape[2:])
    total = empty_image(data[0], weight[0].shape[0], height, width)
    shape = gamma.shape if running_mean is None else (0,)
    return total, gamma.new_empty(shape), gamma.new_empty(shape)


_conv_norm_sum = register(
    f"conv_norm_sum({SCHEMA}, Tensor[] weight, Tensor[] bias, int stride, int[] dilation, Tensor gamma, Tensor beta, "
    "float[] eps, Tensor? running_mean, Tensor? running_var, str backend) -> "
    "(Tensor total, Tensor mean, Tensor variance)",
    dispatching("conv_norm_sum"),
    _shapes,
)


def _backward_shapes(
    grad: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: list[Tensor],
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
        bias[0].new_empty(gamma.shape),
        gamma.new_empty((2, *gamma.shape)),
    )


_conv_norm_sum_backward = register(
    f"conv_norm_sum_backward(Tensor grad, {SCHEMA}, Tensor[] weight, Tensor[] bias, int stride, int[] dilation, "
    "Tensor gamma, float[] eps, Tensor mean, Tensor variance, bool batch_statistics, bool needs_sources, "
    "bool needs_weight, str backend) -> (Tensor[] data, Tensor[] affine, Tensor[] weight, Tensor bias, "
    "Tensor gamma_beta)",
    dispatching("conv_norm_sum_backward"),
    _backward_shapes,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
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
    _, mean, variance = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean, variance)
    if running_mean is not None:
        mean, variance = running_mean, running_var
    ctx.save_for_backward(*data, *affine, *weight, *bias, gamma, mean, variance)
    ctx.counts = (len(data), len(weight))
    ctx.options = (relu, upsample, stride, dilation, eps, running_mean is None, backend)


def _backward(ctx: Any, grad: Tensor | None, _mean: Tensor | None, _variance: Tensor | None) -> tuple[Any, ...]:
    sources, branches = ctx.counts
    if grad is None:
        return ([None] * sources, [None] * sources, None, None, [None] * branches, [None] * branches) + (None,) * 8
    saved = list(ctx.saved_tensors)
    data, affine = saved[:sources], saved[sources : 2 * sources]
    weight, bias = saved[2 * sources : 2 * sources + branches], saved[2 * sources + branches : -3]
    gamma, mean, variance = saved[-3:]
    relu, upsample, stride, dilation, eps, batch_statistics, backend = ctx.options
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
        list(grad_bias),
        None,
        None,
        *grad_gamma_beta,
        None,
        None,
        None,
        None,
    )


differentiable("conv_norm_sum", _setup_context, _backward)
differentiable_once("conv_norm_sum_backward")
