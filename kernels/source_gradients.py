"""Launcher of the gradients of a convolution's sources and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .config import Config, arithmetic
from .finish import GradientSums, finish_gradients
from .gradient_programs import Read, input_tiles, weight_programs
from .launch import launch
from .output_gradient import OutputGradient
from .pack import pack_weights
from .source_gradient import source_gradient_kernel


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


@dataclass(frozen=True)
class _Source:
    """One source: features, how the convolution and its side read them, and where its inputs start in the weights."""

    data: Tensor
    affine: Tensor
    relu: bool
    side_affine: Tensor
    added: Tensor | None
    first_input: int


class _Weights(NamedTuple):
    """Gradients that sources write their sections of, ``None`` where not wanted."""

    main: Tensor | None
    bias: Tensor | None
    side: Tensor | None


def source_gradients(
    grad: OutputGradient,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
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
        weight: (branches * outputs, inputs, k, k), contiguous, the branches' outputs one after another.
        stride: of the convolutions.
        dilation: of each branch.
        needs_sources: whether the gradients of data and affines are wanted.
        needs_weight: whether those of weight and bias are.
        added: gradient that reached the first source otherwise, channels-last.
        side: what else read the sources.
        packed: the weight from ``pack_weights``, transposed, if it is there already.
        config: tile of the weight's gradient, or of the sources' if that is not wanted; ``None`` for the chosen ones.
    """
    weights = _Weights(
        torch.empty_like(weight) if needs_weight else None,
        weight.new_empty(weight.shape[0]) if needs_weight and len(dilation) == 1 else None,
        torch.empty_like(side.weight) if side is not None and side.needs_weight else None,
    )
    if not needs_sources:
        packed = None
    elif packed is None:
        (packed,) = pack_weights([weight], [[x.shape[1] for x in data]], [upsample], grad.grad.dtype, transposed=True)
    results, first_input = [], 0
    for k, x in enumerate(data):
        side_affine = affine[k].new_empty(0) if side is None else side.affine[k]
        source = _Source(x, affine[k], relu[k], side_affine, added if k == 0 else None, first_input)
        read = Read(weight.shape[2], stride, dilation, upsample[k])
        # Every source sees the whole gradient: the first one's programs also sum that of the bias.
        sections = weights if k == 0 else weights._replace(bias=None)
        results.append(_source_gradient(grad, source, read, side, packed, weight, sections, config))
        first_input += x.shape[1]
    grad_data, grad_affine, grad_side_affine = (list(group) for group in zip(*results, strict=True))
    nothing = weight.new_empty(0)
    wanted = (nothing if gradient is None else gradient for gradient in weights)
    return SourceGradients(grad_data, grad_affine, grad_side_affine, *wanted)


def _source_gradient(
    grad: OutputGradient,
    source: _Source,
    read: Read,
    side: Side | None,
    packed: Tensor | None,
    weight: Tensor,
    weights: _Weights,
    config: Config | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write a source's sections of ``weights``, return the gradients of data, affine and side's affine."""
    data, affine, side_affine = source.data, source.affine, source.side_affine
    samples, channels, height, width = data.shape
    # Programs of a launch run on equally many warps: those that the weight's gradient wants.
    main = beside = tiles = slabs = bias_sums = side_slabs = result = vectors = None
    warps = None
    if weights.main is not None:
        main = weight_programs(grad, data, read, config, warps)
        warps, config = main.config.warps, None
        slabs = main.new_slabs(data)
        bias_sums = None if weights.bias is None else main.new_bias_sums(data)
    if weights.side is not None:
        beside = weight_programs(grad, data, Read(1, read.stride, [1], read.upsample), None, warps)
        warps = beside.config.warps
        side_slabs = beside.new_slabs(data)
    has_affine, has_side_scale = affine.numel() > 0, side_affine.numel() > 0
    if packed is not None:
        tiles = input_tiles(grad, data, read, config, warps)
        warps = tiles.config.warps
        result = torch.empty_like(data)
        if has_affine or has_side_scale:
            kinds, dtype = 3 if has_side_scale else 2, torch.promote_types(data.dtype, torch.float32)
            vectors = data.new_empty((kinds, samples, tiles.tiles, channels), dtype=dtype)
    if warps is None:
        return data.new_empty(0), affine.new_empty(0), affine.new_empty(0)
    launch(
        source_gradient_kernel,
        (sum(0 if part is None else part.programs for part in (main, beside, tiles)),),
        *grad.pointers,
        packed,
        data,
        affine if has_affine else None,
        None if tiles is None else source.added,
        None if side is None else side.grad,
        None if side is None or tiles is None else side.weight,
        side_affine if has_side_scale else None,
        result,
        vectors[0] if vectors is not None and has_affine else None,
        vectors[1] if vectors is not None and has_affine else None,
        vectors[2] if vectors is not None and has_side_scale else None,
        slabs,
        bias_sums,
        side_slabs,
        samples,
        *grad.size,
        grad.channels,
        height,
        width,
        channels,
        source.first_input,
        weight.shape[1],
        read.stride,
        *((0, 0, 0) if tiles is None else tiles.arguments),
        *((0, 0, 0, 0, 0) if main is None else main.arguments),
        *((0, 0, 0, 0, 0) if beside is None else beside.arguments),
        multiply_adds=samples
        * grad.pixels
        * grad.channels
        * channels
        * sum(0 if part is None else part.products for part in (main, beside, tiles))
        + (0 if side is None or tiles is None else samples * grad.pixels * grad.channels * channels),
        DILATIONS=tuple(read.dilation),
        MODE="" if tiles is None else tiles.mode,
        TAPS=0 if tiles is None else tiles.taps,
        WEIGHT_TAPS=0 if main is None else main.taps,
        UPSAMPLE=read.upsample,
        AFFINE=len(affine),
        SIDE_AFFINE=len(side_affine),
        RELU=source.relu,
        RAW=read.kernel_size == 1,
        STEP=read.stride,
        TILE=None if tiles is None else tiles.constants,
        WEIGHT_TILE=None if main is None else main.constants,
        SIDE_TILE=None if beside is None else beside.constants,
        num_warps=warps,
        num_stages=1,
        **arithmetic(data.dtype),
    )
    parities = read.upsample and read.kernel_size == 3
    sums = GradientSums(slabs, bias_sums, side_slabs, vectors)
    finished = finish_gradients(sums, affine, parities, source.first_input, weight.shape[1], *weights)
    return data.new_empty(0) if result is None else result, *finished
