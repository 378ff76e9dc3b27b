"""BatchNorm as arithmetic on small vectors: centre, scale and shift that a convolution applies while it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastresunet.ops.backend import Backend, dispatching
from fastresunet.ops.library import differentiable, differentiable_once, register


class Moments(NamedTuple):
    """Statistics of one feature map: mean and M2 (N, C) of the raw features, their gate, and pixels of a sample."""

    mean: Tensor | None
    m2: Tensor | None
    gate: Tensor | None
    pixels: int


def batch_affine(
    maps: Sequence[Moments],
    channels: Sequence[int],
    samples: int,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    dtype: torch.dtype,
    running: tuple[Tensor, Tensor] | None = None,
    backend: Backend = "auto",
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return BatchNorm over the concatenation of one or two gated feature maps as affines of their raw features.

    ``gamma (gate u - mu) / sqrt(var + eps) + beta = (u - center) scale + shift``, see ``fastresunet.normalization``.

    Args:
        maps: statistics; mean and M2 may be missing where ``running`` is given.
        channels: of each map.
        samples: N.
        gamma: BatchNorm weight, over the channels of all maps.
        beta: BatchNorm bias.
        eps: added to the variance.
        dtype: of the results.
        running: mean and variance to normalise with in place of the batch's.
        backend: what computes it.

    Returns:
        Centre, scale and shift (3, N, C) of each map; mean and biased variance over all channels, not differentiable.
    """
    first, second = maps[0], maps[1] if len(maps) == 2 else Moments(None, None, None, 1)
    mean, variance = running if running is not None else (None, None)
    affine, affine2, mu, var = _batch_affine(
        *_contiguous(first),
        *_contiguous(second),
        samples,
        channels[0],
        gamma,
        beta,
        eps,
        mean,
        variance,
        dtype,
        backend,
    )
    return [affine, affine2][: len(maps)], mu, var


def _contiguous(x: Moments) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
    mean, m2, gate = (None if vector is None else vector.contiguous() for vector in x[:3])
    return mean, m2, gate, x.pixels


_MAPS = (
    "Tensor? mean, Tensor? m2, Tensor? gate, SymInt pixels, Tensor? mean2, Tensor? m2_2, Tensor? gate2, "
    "SymInt pixels2, SymInt samples, int channels, Tensor gamma"
)


def _shapes(
    mean: Tensor | None,
    m2: Tensor | None,
    gate: Tensor | None,
    pixels: int,
    mean2: Tensor | None,
    m2_2: Tensor | None,
    gate2: Tensor | None,
    pixels2: int,
    samples: int,
    channels: int,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, ...]:
    rest = gamma.shape[0] - channels
    second = (3, samples, rest) if rest else (0,)
    vectors = (gamma.new_empty(gamma.shape, dtype=dtype) for _ in range(2))
    return gamma.new_empty((3, samples, channels), dtype=dtype), gamma.new_empty(second, dtype=dtype), *vectors


_batch_affine = register(
    f"batch_affine({_MAPS}, Tensor beta, float eps, Tensor? running_mean, Tensor? running_var, ScalarType dtype, "
    "str backend) -> (Tensor affine, Tensor affine2, Tensor mu, Tensor var)",
    dispatching("batch_affine"),
    _shapes,
)


def _backward_shapes(
    grad_affine: Tensor,
    grad_affine2: Tensor,
    mean: Tensor | None,
    m2: Tensor | None,
    gate: Tensor | None,
    pixels: int,
    mean2: Tensor | None,
    m2_2: Tensor | None,
    gate2: Tensor | None,
    pixels2: int,
    samples: int,
    channels: int,
    gamma: Tensor,
    mu: Tensor,
    var: Tensor,
    eps: float,
    batch_statistics: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    results = []
    for center, factor in ((mean, gate), (mean2, gate2)):
        results.append(mu.new_empty((3, *center.shape) if center is not None and batch_statistics else (0,)))
        results.append(mu.new_empty((0,) if factor is None else factor.shape))
    return *results, torch.empty_like(gamma), torch.empty_like(gamma)


_batch_affine_backward = register(
    f"batch_affine_backward(Tensor grad_affine, Tensor grad_affine2, {_MAPS}, Tensor mu, Tensor var, float eps, "
    "bool batch_statistics, str backend) -> (Tensor statistics, Tensor gate, Tensor statistics2, Tensor gate2, "
    "Tensor gamma, Tensor beta)",
    dispatching("batch_affine_backward"),
    _backward_shapes,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *maps, samples, channels, gamma, _, eps, running_mean, _, _, backend = inputs
    _, affine2, mu, var = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mu, var, *(() if affine2.numel() else (affine2,)))
    ctx.save_for_backward(*maps[:3], *maps[4:7], gamma, mu, var)
    ctx.options = (maps[3], maps[7], samples, channels, eps, running_mean is None, backend)


def _backward(
    ctx: Any, grad_affine: Tensor | None, grad_affine2: Tensor | None, _mu: Tensor | None, _var: Tensor | None
) -> tuple[Any, ...]:
    mean, m2, gate, mean2, m2_2, gate2, gamma, mu, var = ctx.saved_tensors
    pixels, pixels2, samples, channels, eps, batch_statistics, backend = ctx.options
    sections = (channels, gamma.shape[0] - channels)
    grad_affine, grad_affine2 = (
        mu.new_zeros((3, samples, section) if section else (0,)) if grad is None else grad.contiguous()
        for grad, section in zip((grad_affine, grad_affine2), sections, strict=True)
    )
    statistics, grad_gate, statistics2, grad_gate2, grad_gamma, grad_beta = _batch_affine_backward(
        grad_affine,
        grad_affine2,
        mean,
        m2,
        gate,
        pixels,
        mean2,
        m2_2,
        gate2,
        pixels2,
        samples,
        channels,
        gamma,
        mu,
        var,
        eps,
        batch_statistics,
        backend,
    )
    wanted: list[Tensor | None] = []
    for center, factor, vectors, grad in (
        (mean, gate, statistics, grad_gate),
        (mean2, gate2, statistics2, grad_gate2),
    ):
        given = center is not None and batch_statistics
        wanted += [vectors[2] if given else None, vectors[1] if given else None, None if factor is None else grad]
    return (*wanted[:3], None, *wanted[3:], None, None, None, grad_gamma, grad_beta, None, None, None, None, None)


differentiable("batch_affine", _setup_context, _backward)
differentiable_once("batch_affine_backward")
