"""BatchNorm as arithmetic on small vectors: no pass over an image is made to normalise it.

With u the raw features of sample n, channel c, g their gate, and mean, M2 their statistics over the P pixels,

    mu  = mean_n(g mean)                                     batch mean
    var = mean_n(g^2 M2 / P) + mean_n((g mean - mu)^2)       batch variance, merged by Chan's formula
    gamma (g u - mu) / sqrt(var + eps) + beta = (u - mean) scale + shift
    scale = gamma g / sqrt(var + eps),   shift = beta + gamma (g mean - mu) / sqrt(var + eps)

Scale and shift are what the next convolution applies while it reads; the gradient of BatchNorm follows from
differentiating these vectors. Nearest upsampling leaves mean and variance as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from fastresunet.distributed import is_synchronized, merge_over_processes
from fastresunet.feature_map import FeatureMap
from fastresunet.ops import (
    Backend,
    Branch,
    Maps,
    Moments,
    Source,
    accumulation_dtype,
    batch_affine,
    conv,
    conv_norm_sum,
)
from fastresunet.running_statistics import Norm, update_running_statistics


def uses_batch_statistics(norm: Norm) -> bool:
    """Return whether ``norm`` normalises with the batch's own statistics, as it does in training mode."""
    return norm.training or norm.running_mean is None


def normalized_sources(
    norm: Norm, maps: Sequence[FeatureMap], upsample: Sequence[bool], relu: bool = True, backend: Backend = "auto"
) -> list[Source]:
    """Return sources that read the concatenation of ``maps`` through BatchNorm and ReLU; updates running statistics.

    Args:
        norm: over the channels of all maps together.
        maps: feature maps of equal size once upsampled.
        upsample: for each map, whether it is read at twice its resolution.
        relu: apply the ReLU after the normalisation.
        backend: what computes it.

    Raises:
        ValueError: the maps do not have the norm's channels, or in training mode a channel has one value only.
    """
    channels = sum(x.channels for x in maps)
    if channels != norm.num_features:
        raise ValueError(f"expected features of {norm.num_features} channels, got {channels}")
    from_batch = uses_batch_statistics(norm)
    if from_batch:
        maps = [x.with_statistics() for x in maps]
    if is_synchronized(norm):
        affines: Sequence[Tensor] = _synchronized_affines(norm, maps, upsample)
    else:
        affines = _affines(norm, maps, upsample, from_batch, backend)
    return [Source(x.data, affine, relu, up) for x, affine, up in zip(maps, affines, upsample, strict=True)]


def gated_sources(maps: Sequence[FeatureMap], upsample: Sequence[bool]) -> list[Source]:
    """Return sources that read the concatenation of ``maps`` as they are, gates applied."""
    return [Source(x.data, _gate_affine(x.gate), False, up) for x, up in zip(maps, upsample, strict=True)]


def normalized_sum(
    maps: Sequence[FeatureMap],
    upsample: Sequence[bool],
    branches: Sequence[tuple[nn.Conv2d, Norm]],
    stride: int = 1,
    backend: Backend = "auto",
) -> Tensor:
    """Return the sum of ``norm(convolution(maps))`` over branches; updates running statistics.

    Branches whose statistics are shared between processes, or that mix batch and running statistics, are computed one
    by one and kept for the backward pass; otherwise they are recomputed there.
    """
    sources = gated_sources(maps, upsample)
    norms = [norm for _, norm in branches]
    from_batch = uses_batch_statistics(norms[0])
    if any(is_synchronized(norm) or uses_batch_statistics(norm) != from_batch for norm in norms):
        return reduce(torch.add, [_separate_branch(sources, *branch, stride, backend) for branch in branches])
    total, mean, variance = conv_norm_sum(
        sources, [_branch(*branch) for branch in branches], stride=stride, backend=backend
    )
    if from_batch:
        count = total.numel() // total.shape[1]
        _check_count(count)
        for norm, branch_mean, branch_variance in zip(norms, mean, variance, strict=True):
            update_running_statistics(norm, branch_mean, branch_variance, count)
    return total


def as_maps(maps: Sequence[FeatureMap], upsample: Sequence[bool]) -> Maps:
    """Return feature maps as the block operations take them."""
    nothing = maps[0].data.new_empty(0, dtype=accumulation_dtype(maps[0].data.dtype))
    mean, m2, gate = (
        [nothing if vector is None else vector for vector in group]
        for group in zip(*((x.mean, x.m2, x.gate) for x in maps), strict=True)
    )
    return Maps([x.data for x in maps], mean, m2, gate, list(upsample))


def norm_vectors(norm: Norm) -> list[Tensor]:
    """Return weight, bias, and running mean and variance as the block operations take them."""
    if uses_batch_statistics(norm):
        nothing = norm.weight.new_empty(0)
        return [norm.weight, norm.bias, nothing, nothing]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [norm.weight, norm.bias, norm.running_mean, norm.running_var]


def update_from_batch(norm: Norm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update running statistics with a batch's, where ``norm`` normalises with those.

    Raises:
        ValueError: a channel has one value only.
    """
    if uses_batch_statistics(norm):
        _check_count(count)
        update_running_statistics(norm, mean, variance, count)


def _affines(
    norm: Norm, maps: Sequence[FeatureMap], upsample: Sequence[bool], from_batch: bool, backend: Backend
) -> list[Tensor]:
    samples, dtype = maps[0].data.shape[0], accumulation_dtype(maps[0].data.dtype)
    running = None
    if not from_batch:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        running = (norm.running_mean, norm.running_var)
    affines, mean, variance = batch_affine(
        [Moments(x.mean, x.m2, x.gate, x.data.shape[2] * x.data.shape[3]) for x in maps],
        [x.channels for x in maps],
        samples,
        norm.weight,
        norm.bias,
        norm.eps,
        dtype,
        running,
        backend,
    )
    if from_batch:
        count = samples * pixels(maps, upsample)
        _check_count(count)
        update_running_statistics(norm, mean, variance, count)
    return affines


def _synchronized_affines(norm: Norm, maps: Sequence[FeatureMap], upsample: Sequence[bool]) -> tuple[Tensor, ...]:
    """The same from statistics over all processes; the sums between them are PyTorch's."""
    means, variances = [], []
    for x in maps:
        assert x.mean is not None
        assert x.m2 is not None
        means.append(x.mean)
        variances.append(x.m2 / (x.data.shape[2] * x.data.shape[3]))
    mean, variance, gate = torch.cat(means, dim=1), torch.cat(variances, dim=1), _gates(maps, means[0])
    center = mean.detach()
    if gate is not None:
        mean, variance = mean * gate, variance * gate.square()
    mu = mean.mean(dim=0)
    var = variance.mean(dim=0) + (mean - mu).square().mean(dim=0)
    mu, var, count = merge_over_processes(norm, mu, var, maps[0].data.shape[0] * pixels(maps, upsample))
    update_running_statistics(norm, mu, var, count)
    # The result does not depend on the centre, so it carries no gradient.
    slope = norm.weight.to(mu.dtype) * torch.rsqrt(var + norm.eps)
    scaled_center = center if gate is None else center * gate
    scale = slope.expand_as(center) if gate is None else slope * gate
    affine = torch.stack([center, scale, norm.bias.to(mu.dtype) + (scaled_center - mu) * slope])
    return affine.split([x.channels for x in maps], dim=2)


def pixels(maps: Sequence[FeatureMap], upsample: Sequence[bool]) -> int:
    """Return the pixels of a sample of ``maps`` as they are read."""
    return maps[0].data.shape[2] * maps[0].data.shape[3] * (4 if upsample[0] else 1)


def _gates(maps: Sequence[FeatureMap], like: Tensor) -> Tensor | None:
    """Return the gates of all channels (N, C), or ``None`` if no map has one."""
    if all(x.gate is None for x in maps):
        return None
    samples = maps[0].data.shape[0]
    return torch.cat([like.new_ones(samples, x.channels) if x.gate is None else x.gate for x in maps], dim=1)


def _gate_affine(gate: Tensor | None) -> Tensor | None:
    return None if gate is None else gate[None]


def _branch(convolution: nn.Conv2d, norm: Norm) -> Branch:
    assert convolution.bias is not None
    running = not uses_batch_statistics(norm)
    return Branch(
        convolution.weight,
        convolution.bias,
        convolution.dilation[0],
        norm.weight,
        norm.bias,
        norm.eps,
        norm.running_mean if running else None,
        norm.running_var if running else None,
    )


def _separate_branch(
    sources: Sequence[Source], convolution: nn.Conv2d, norm: Norm, stride: int, backend: Backend
) -> Tensor:
    weight, bias, dilation = convolution.weight, convolution.bias, convolution.dilation[0]
    result = conv(sources, weight, bias, stride=stride, dilation=dilation, backend=backend)
    (source,) = normalized_sources(norm, [FeatureMap(*result)], [False], relu=False, backend=backend)
    assert source.affine is not None
    center, scale, shift = source.affine[:, :, :, None, None]
    return ((source.data - center) * scale + shift).to(source.data.dtype)


def _check_count(count: int) -> None:
    if count == 1:
        raise ValueError(
            "training needs more than one value per channel, but a feature map of a single pixel in a batch of one was "
            "given: use a larger image or batch, or .eval()"
        )
