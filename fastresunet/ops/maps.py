"""Feature maps, and the BatchNorms that read them, as the block operations take them: lists of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastresunet.ops.backend import Backend, compute
from fastresunet.ops.layout import channels_last
from fastresunet.ops.source import accumulation_dtype

# The fields of ``Maps``; empty tensors stand for vectors that there are none of.
SCHEMA = "Tensor[] data, Tensor[] mean, Tensor[] m2, Tensor[] gate, bool[] upsample"
# Residual, gate, gate scale and pooling of a convolution whose result is written as it is.
NO_FINISH = (None, None, None, False)


class Normalization(NamedTuple):
    """BatchNorm: weight, bias and eps; with running statistics it normalises with those."""

    gamma: Tensor
    beta: Tensor
    eps: float
    running_mean: Tensor | None
    running_var: Tensor | None

    @classmethod
    def of(cls, vectors: Sequence[Tensor], eps: float) -> Normalization:
        """Return a BatchNorm from gamma, beta, running mean and variance, the last two empty for the batch's."""
        gamma, beta, *running = vectors
        mean, variance = (vector if vector.numel() else None for vector in running)
        return cls(gamma, beta, eps, mean, variance)

    @property
    def uses_batch(self) -> bool:
        """Whether it normalises with the batch's statistics."""
        return self.running_mean is None


class Maps(NamedTuple):
    """One or two feature maps that are read concatenated along channels.

    Attributes:
        data: raw features (N, C, H, W), channels-last.
        mean: (N, C) of each, or empty.
        m2: (N, C) of each, or empty.
        gate: (N, C) of each, or empty.
        upsample: whether each is read at twice its resolution.
    """

    data: list[Tensor]
    mean: list[Tensor]
    m2: list[Tensor]
    gate: list[Tensor]
    upsample: list[bool]

    @classmethod
    def single(cls, data: Tensor, mean: Tensor, m2: Tensor) -> Maps:
        """Return one map without a gate."""
        return cls([data], [mean], [m2], [mean.new_empty(0)], [False])

    def cast(self, dtype: torch.dtype) -> Maps:
        """Return the maps with data in ``dtype`` and in the layout that operations read."""
        mean, m2, gate = ([vector.contiguous() for vector in group] for group in self[1:4])
        return Maps([channels_last(x.to(dtype)) for x in self.data], mean, m2, gate, self.upsample)

    def separate(self) -> list[Maps]:
        """Return each map by itself."""
        return [Maps([d], [mean], [m2], [gate], [up]) for d, mean, m2, gate, up in zip(*self, strict=True)]

    @property
    def gates(self) -> list[Tensor]:
        """Scales alone (1, N, C) of the maps; empty without a gate."""
        return [gate[None] if gate.numel() else gate for gate in self.gate]

    def read(self, affine: Sequence[Tensor], relu: bool) -> tuple[list[Tensor], list[Tensor], list[bool], list[bool]]:
        """Return the maps as the sources of a convolution."""
        return self.data, list(affine), [relu] * len(self.data), self.upsample

    def normalized(self, backend: Backend, norm: Normalization) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return centre, scale and shift (3, N, C) of each map, and the mean and variance it is normalised with."""
        first, second, mu, var = compute(
            backend,
            "batch_affine",
            *self._moments(norm.uses_batch),
            *self.data[0].shape[:2],
            *norm,
            accumulation_dtype(self.data[0].dtype),
        )
        return [first, second][: len(self.data)], mu, var

    def normalized_backward(
        self, backend: Backend, norm: Normalization, grads: Sequence[Tensor], mu: Tensor, var: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Return the gradients of the maps' statistics and gates, empty where there are none, and of gamma and beta.

        ``statistics`` are the mean and the gradients of M2 and mean (3, N, C); see ``conv_gradients``.

        Args:
            backend: what computes it.
            norm: as given to ``normalized``.
            grads: gradients (3, N, C) of the affines of all maps.
            mu: from ``normalized``.
            var: from ``normalized``.
        """
        statistics, grad_gate, statistics2, grad_gate2, grad_gamma, grad_beta = compute(
            backend,
            "batch_affine_backward",
            *(*grads, mu.new_empty(0))[:2],
            *self._moments(norm.uses_batch),
            *self.data[0].shape[:2],
            norm.gamma,
            mu,
            var,
            norm.eps,
            norm.uses_batch,
        )
        count = len(self.data)
        return [statistics, statistics2][:count], [grad_gate, grad_gate2][:count], grad_gamma, grad_beta

    def _moments(self, with_statistics: bool) -> list[Tensor | int | None]:
        moments: list[Tensor | int | None] = []
        for data, mean, m2, gate in zip(self.data, self.mean, self.m2, self.gate, strict=True):
            moments += [mean, m2] if with_statistics else [None, None]
            moments += [gate if gate.numel() else None, data.shape[2] * data.shape[3]]
        return moments if len(self.data) == 2 else [*moments, None, None, None, 1]


def output_statistics(mean: Tensor, grad_mean: Tensor | None, grad_m2: Tensor | None) -> Tensor | None:
    """Return the mean of a map and the gradients of its M2 and mean (3, N, C), ``None`` if there are none."""
    if grad_mean is None and grad_m2 is None:
        return None
    given = [torch.zeros_like(mean) if vector is None else vector for vector in (grad_m2, grad_mean)]
    return torch.stack([mean, *given])


def statistics_gradients(statistics: Sequence[Tensor]) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Return the gradients of the means and of the M2 of maps, ``None`` where ``statistics`` are empty."""
    means = [vectors[2] if vectors.numel() else None for vectors in statistics]
    return means, [vectors[1] if vectors.numel() else None for vectors in statistics]
