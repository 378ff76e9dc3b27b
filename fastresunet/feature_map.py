"""A feature map as the fused blocks pass it on: raw convolution output plus small per-channel vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from fastresunet.ops import channel_statistics


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Raw features with what later BatchNorms and convolutions need to know about them.

    The features stand for ``data * gate``; the product is never written, the gate goes into the consumers' scales.

    Attributes:
        data: raw output of a convolution (N, C, H, W), channels-last.
        mean: mean of ``data`` over pixels (N, C), or ``None`` if not computed yet.
        m2: sum over pixels of (data - mean)^2 (N, C), or ``None`` if not computed yet.
        gate: squeeze-and-excitation scale of every sample and channel (N, C), or ``None`` for 1.
    """

    data: Tensor
    mean: Tensor | None = None
    m2: Tensor | None = None
    gate: Tensor | None = None

    @classmethod
    def from_tensor(cls, x: Tensor) -> FeatureMap:
        """Wrap plain features (N, C, H, W).

        Raises:
            TypeError: ``x`` is no floating-point tensor.
            ValueError: ``x`` has not four dimensions.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"features must be a floating-point tensor, got {given}")
        if x.ndim != 4:
            raise ValueError(f"features must have shape (N, C, H, W), got {tuple(x.shape)}")
        return cls(x)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.data.shape[1]

    def with_statistics(self) -> FeatureMap:
        """Return this map with ``mean`` and ``m2`` filled in."""
        if self.mean is not None and self.m2 is not None:
            return self
        mean, m2 = channel_statistics(self.data)
        return replace(self, mean=mean, m2=m2)

    def to_tensor(self) -> Tensor:
        """Return the features as a plain tensor (N, C, H, W) in the dtype of ``data``."""
        if self.gate is None:
            return self.data
        return (self.data * self.gate[:, :, None, None]).to(self.data.dtype)
