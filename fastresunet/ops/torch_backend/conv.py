"""The fused convolution: read sources, convolve, finish the write; and its gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastresunet.ops.layout import as_image, channels_last, sum_pixels
from fastresunet.ops.torch_backend.pooling import max_pool, max_pool_backward
from fastresunet.ops.torch_backend.read import no_gradients, read_sources, read_sources_backward
from fastresunet.ops.torch_backend.statistics import channel_statistics, statistics_gradient
from fastresunet.ops.torch_backend.taps import convolve_sources, convolve_sources_backward


def conv(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, mean, M2 and what the write keeps for backward (pool positions, or the output before the gate)."""
    dtype = data[0].dtype
    activated = read_sources(data, affine, relu, dtype)
    rounded_bias = None if bias is None else bias.to(dtype)
    output = convolve_sources(activated, weight.to(dtype), rounded_bias, stride, dilation, upsample)
    kept = output.new_empty(0)
    if residual is not None:
        output += residual
    if gate is not None:
        kept = output
        output = channels_last((output * _scaled(gate, gate_scale)).to(output.dtype))
    if pool:
        output, kept = max_pool(output)
    if statistics:
        mean, m2 = channel_statistics(output)
    else:
        mean, m2 = output.new_empty(0), output.new_empty(0)
    return output, mean, m2, kept


def conv_gradients(
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
    added: Tensor | None = None,
    side_grad: Tensor | None = None,
    side_weight: Tensor | None = None,
    side_affine: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor, list[Tensor]]:
    """Return the gradients of residual, gate, gate scale, data and affine of each source, weight, bias, side affines.

    A gradient that is not needed is empty. ``statistics`` are the mean of what was written and the gradients of its M2
    and mean (3, N, C), where it had any. The gradients of data include ``added``, which reached the first source
    otherwise, and that of a second, 1x1 convolution of the same stride, which read the sources through ``side_affine``
    (scales alone) without ReLU and whose result has the gradient ``side_grad``.
    """
    grad_residual, grad_gate, grad_gate_scale = (grad.new_empty(0) for _ in range(3))
    grad = channels_last(grad)
    if statistics is not None:
        grad = statistics_gradient(statistics, output).add_(grad).to(grad.dtype)
    if has_residual:
        grad_residual = grad
    if gate is not None:
        grad_scaled = grad * kept
        if gate_scale is not None:
            grad_gate_scale = sum_pixels(grad_scaled * gate.to(gate_scale.dtype))
            grad_scaled = (grad_scaled * as_image(gate_scale)).to(gate.dtype)
        grad_gate = grad_scaled
        grad = (grad * _scaled(gate, gate_scale)).to(grad.dtype)
    if pool:
        zoom = 2 if upsample[0] else 1
        height, width = ((zoom * size - 1) // stride + 1 for size in data[0].shape[2:])
        grad = max_pool_backward(grad, kept, height, width)

    grad_bias = sum_pixels(grad).sum(dim=0).to(weight.dtype) if needs_weight else weight.new_empty(0)
    activated = read_sources(data, affine, relu, grad.dtype)
    needs = (needs_sources, needs_weight)
    grads, grad_weight = convolve_sources_backward(
        grad, activated, weight.to(grad.dtype), stride, dilation, upsample, needs
    )
    if needs_sources:
        grad_data, grad_affine = read_sources_backward(grads, data, affine, relu, activated)
    else:
        grad_data, grad_affine = no_gradients(data), no_gradients(affine)
    grad_side: list[Tensor] = []
    if side_grad is not None and side_weight is not None and side_affine is not None and needs_sources:
        plain = [False] * len(data)
        read = read_sources(data, side_affine, plain, grad.dtype)
        side_sources = (side_grad, read, side_weight.to(grad.dtype), stride, 1, upsample, (True, False))
        more, grad_side = read_sources_backward(
            convolve_sources_backward(*side_sources)[0], data, side_affine, plain, read
        )
        grad_data = [total.add_(side) for total, side in zip(grad_data, more, strict=True)]
    if added is not None and needs_sources:
        grad_data[0] += added
    weights = (grad_weight.to(weight.dtype), grad_bias)
    return grad_residual, grad_gate, grad_gate_scale, grad_data, grad_affine, *weights, grad_side


def conv_backward(
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the gradients of a convolution that is alone in reading its sources, see ``conv_gradients``."""
    return conv_gradients(*arguments)[:7]


def _scaled(gate: Tensor, gate_scale: Tensor | None) -> Tensor:
    return gate if gate_scale is None else gate * as_image(gate_scale)
