"""Launcher of the gradients of a convolution's sources and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .config import Config, arithmetic
from .finish import finish_gradients
from .gradient_programs import Read
from .launch import launch
from .output_gradient import OutputGradient
from .pack import pack_branches
from .source_gradient import source_gradients_kernel
from .source_part import Source, SourcePart, Wanted, choose_configs


@dataclass(frozen=True)
class Side:
    """A 1x1 convolution beside another one, of the same sources, stride and size.

    Attributes:
        grad: gradient of its raw result (N, C_out, H, W), channels-last.
        weight: (C_out, inputs, 1, 1).
        affine: scale (1, N, C) that it read each source with, or empty.
        needs_weight: whether the gradient of its weight is wanted.
    """

    grad: Tensor
    weight: Tensor
    affine: list[Tensor]
    needs_weight: bool


class SourceGradients(NamedTuple):
    """Gradients of a convolution, or of branches that read the same sources; empty where not wanted.

    Attributes:
        data: of each source.
        affine: of each source's affine.
        side_affine: of the scale that the side read each source with.
        weight: (branches * outputs, inputs, k, k), in the weight's dtype.
        bias: (outputs,), of a single branch.
        side_weight: of the side's weight.
    """

    data: list[Tensor]
    affine: list[Tensor]
    side_affine: list[Tensor]
    weight: Tensor
    bias: Tensor
    side_weight: Tensor


def source_gradients(
    grad: OutputGradient,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    stride: int,
    dilation: list[int],
    needs_sources: bool,
    needs_weight: bool,
    added: Tensor | None = None,
    side: Side | None = None,
    packed: Tensor | None = None,
    config: Config | None = None,
) -> SourceGradients:
    """Return the gradients of all sources and weights.

    Args:
        grad: gradients of the raw results of all branches; usually one.
        data: the sources (N, C, H, W), channels-last.
        affine: (3, N, C) or (1, N, C) of each, or empty.
        relu: whether each was read through a ReLU.
        upsample: whether each was read at twice its resolution.
        weight: (outputs, inputs, k, k) of each branch.
        stride: of the convolutions.
        dilation: of each branch.
        needs_sources: whether the gradients of data and affines are wanted.
        needs_weight: whether those of weight and bias are.
        added: gradient that reached the first source otherwise, channels-last.
        side: what else read the sources.
        packed: from ``pack_branches``, or ``pack_weights`` for a single branch, transposed, if it is there already.
        config: tile of the first gradient that is wanted, of the weight, the side's weight or the sources; ``None`` for
            the chosen one.
    """
    side_weight = None if side is None or not side.needs_weight else side.weight
    wanted = Wanted(needs_weight, side_weight is not None, needs_sources)
    outputs, inputs, kernel_size, _ = weight[0].shape
    nothing, has_bias = weight[0].new_empty(0), needs_weight and len(dilation) == 1
    shape = (len(weight) * outputs, inputs, kernel_size, kernel_size)
    grad_weight = weight[0].new_empty(shape) if needs_weight else nothing
    grad_bias = weight[0].new_empty(grad.channels) if has_bias else nothing
    grad_side_weight = nothing if side_weight is None else torch.empty_like(side_weight)
    sources, first_input = [], 0
    for k, x in enumerate(data):
        scale = affine[k].new_empty(0) if side is None else side.affine[k]
        read = Read(kernel_size, stride, tuple(dilation), upsample[k])
        sources.append(Source(x, affine[k], relu[k], scale, read, first_input))
        first_input += x.shape[1]
    if not any(wanted):
        none = [v.new_empty(0) for v in affine]
        return SourceGradients([x.new_empty(0) for x in data], none, none, grad_weight, grad_bias, grad_side_weight)
    if needs_sources and packed is None:
        packed = pack_branches(weight, [x.shape[1] for x in data], upsample, grad.grad.dtype, transposed=True)
    configs = [choose_configs(grad, source, wanted, config) for source in sources]
    # Programs of one launch run on equally many warps.
    warps = min(config.warps for config in configs)
    parts = [
        SourcePart.of(grad, source, config.on_warps(warps)) for source, config in zip(sources, configs, strict=True)
    ]
    bias_sums = parts[0].weight.new_bias_sums(data[0]) if has_bias and parts[0].weight is not None else None
    _launch(grad, parts, inputs, packed if needs_sources else None, added, side, bias_sums, warps)
    vectors = finish_gradients(parts, bias_sums, grad_weight, grad_bias, grad_side_weight)
    grad_data = [x.new_empty(0) if part.result is None else part.result for x, part in zip(data, parts, strict=True)]
    return SourceGradients(grad_data, *vectors, grad_weight, grad_bias, grad_side_weight)


def _launch(
    grad: OutputGradient,
    parts: list[SourcePart],
    inputs: int,
    packed: Tensor | None,
    added: Tensor | None,
    side: Side | None,
    bias_sums: Tensor | None,
    warps: int,
) -> None:
    first, second = parts[0], parts[1] if len(parts) == 2 else None
    samples, read = first.source.data.shape[0], first.source.read
    # The side's share of the sources' gradients is one product more for each pixel and channel.
    products = sum(part.products for part in parts) + (0 if side is None or packed is None else inputs)
    second_constants = dict.fromkeys(first.constants) if second is None else second.constants
    launch(
        source_gradients_kernel,
        (sum(part.programs for part in parts),),
        *grad.pointers,
        packed,
        None if side is None else side.grad,
        None if side is None or packed is None else side.weight,
        None if packed is None else added,
        bias_sums,
        *first.pointers,
        *((None,) * len(first.pointers) if second is None else second.pointers),
        samples,
        *grad.size,
        grad.channels,
        inputs,
        read.stride,
        *first.sizes,
        first.programs,
        *((0,) * len(first.sizes) if second is None else second.sizes),
        multiply_adds=samples * grad.pixels * grad.channels * products,
        **first.constants,
        **{f"{name}2": value for name, value in second_constants.items()},
        DILATIONS=read.dilation,
        RAW=read.kernel_size == 1,
        STEP=read.stride,
        num_warps=warps,
        num_stages=1,
        **arithmetic(first.source.data.dtype),
    )
