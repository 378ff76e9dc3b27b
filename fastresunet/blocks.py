"""The building blocks of ResUNet++ on feature maps, each also a module of its own on plain tensors.

Parameters and their names come from the plain classes in ``fastresunet.reference``; only the forward pass differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastresunet import reference
from fastresunet.feature_map import FeatureMap
from fastresunet.normalization import gated_sources, normalized_sources, normalized_sum, uses_batch_statistics
from fastresunet.ops import Source, conv


class FusedBlock(nn.Module):
    """A block that maps feature maps to a feature map, or plain tensors to a plain tensor."""

    def fused(self, *maps: FeatureMap) -> FeatureMap:
        """Compute the block on feature maps."""
        raise NotImplementedError

    @overload
    def forward(self, *inputs: FeatureMap) -> FeatureMap: ...
    @overload
    def forward(self, *inputs: Tensor) -> Tensor: ...
    def forward(self, *inputs: FeatureMap | Tensor) -> FeatureMap | Tensor:
        """Return a ``FeatureMap`` for ``FeatureMap`` inputs and a tensor for tensors; shapes as in the plain class."""
        if all(isinstance(x, FeatureMap) for x in inputs):
            return self.fused(*inputs)  # type: ignore[arg-type]
        return self.fused(*(x if isinstance(x, FeatureMap) else FeatureMap.from_tensor(x) for x in inputs)).to_tensor()


class SqueezeExcite(FusedBlock, reference.SqueezeExcite):
    """Squeeze-and-excitation: the squeeze is the map's mean, the excitation becomes its gate; no image is touched."""

    def fused(self, *maps: FeatureMap) -> FeatureMap:
        """Return the map with its gate set, an earlier gate included."""
        (x,) = maps
        x = x.with_statistics()
        assert x.mean is not None
        mean = x.mean if x.gate is None else x.mean * x.gate
        first, _, last, _ = _layers(self.net)
        with torch.autocast(mean.device.type, enabled=False):
            hidden = F.relu(F.linear(mean, first.weight.to(mean.dtype)))
            gate = torch.sigmoid(F.linear(hidden, last.weight.to(mean.dtype)))
        return FeatureMap(x.data, x.mean, x.m2, gate if x.gate is None else gate * x.gate)


class StemBlock(FusedBlock, reference.StemBlock):
    """First residual block: convolution, BN-ReLU-convolution, normalised 1x1 shortcut, squeeze-and-excitation."""

    attention_class = SqueezeExcite

    def fused(self, *maps: FeatureMap) -> FeatureMap:
        """Compute the block on the image."""
        (image,) = maps
        first, norm, _, second = _layers(self.c1)
        hidden = conv(gated_sources(maps, [False]), first.weight, first.bias, statistics=uses_batch_statistics(norm))
        shortcut = normalized_sum([image], [False], [_layers(self.c2)])
        sources = normalized_sources(norm, [FeatureMap(*hidden)], [False])
        return self.attn(FeatureMap(*conv(sources, second.weight, second.bias, residual=shortcut)))


class ResidualBlock(FusedBlock, reference.ResidualBlock):
    """Pre-activation residual block with squeeze-and-excitation (ResUNet, Zhang et al. 2018)."""

    attention_class = SqueezeExcite

    def fused(self, *maps: FeatureMap) -> FeatureMap:
        """Compute the block on one map."""
        return self.on_concatenation(maps, [False] * len(maps))

    def on_concatenation(self, maps: Sequence[FeatureMap], upsample: Sequence[bool]) -> FeatureMap:
        """Compute the block on the concatenation of ``maps``, those in ``upsample`` read at twice their size."""
        norm_in, _, first, norm, _, second = _layers(self.c1)
        hidden = conv(
            normalized_sources(norm_in, maps, upsample),
            first.weight,
            first.bias,
            stride=first.stride[0],
            statistics=uses_batch_statistics(norm),
        )
        shortcut = normalized_sum(maps, upsample, [_layers(self.c2)], first.stride[0])
        sources = normalized_sources(norm, [FeatureMap(*hidden)], [False])
        return self.attn(FeatureMap(*conv(sources, second.weight, second.bias, residual=shortcut)))


class ASPP(FusedBlock, reference.ASPP):
    """Atrous spatial pyramid pooling: the sum of normalised dilated convolutions, projected by a 1x1 convolution."""

    def fused(self, *maps: FeatureMap) -> FeatureMap:
        """Compute the block on one map."""
        total = normalized_sum(maps, [False], [_layers(branch) for branch in self.branches])
        projection = self.projection
        return FeatureMap(*conv([Source(total)], projection.weight, projection.bias, statistics=self.training))


class AttentionGate(FusedBlock, reference.AttentionGate):
    """Attention gate: pooling, sum and product happen as the three convolutions write."""

    def fused(self, *maps: FeatureMap) -> FeatureMap:
        """Gate the second map by the first one, the skip connection at twice its resolution."""
        skip, x = maps
        skip_norm, _, skip_conv, _ = _layers(self.g_conv)
        x_norm, _, x_conv = _layers(self.x_conv)
        norm, _, last = _layers(self.gc_conv)
        pooled = conv(
            normalized_sources(skip_norm, [skip], [False]),
            skip_conv.weight,
            skip_conv.bias,
            pool=True,
            statistics=False,
        )
        total = conv(
            normalized_sources(x_norm, [x], [False]),
            x_conv.weight,
            x_conv.bias,
            residual=pooled.data,
            statistics=uses_batch_statistics(norm),
        )
        sources = normalized_sources(norm, [FeatureMap(*total)], [False])
        gated = conv(sources, last.weight, last.bias, gate=x.data, gate_scale=x.gate, statistics=self.training)
        return FeatureMap(*gated)


class DecoderBlock(FusedBlock, reference.DecoderBlock):
    """Attention gate and residual block; the upsampled concatenation between them is an addressing mode."""

    attention_gate_class = AttentionGate
    residual_class = ResidualBlock
    r1: ResidualBlock

    def fused(self, *maps: FeatureMap) -> FeatureMap:
        """Decode the second map with the first one, the skip connection at twice its resolution."""
        skip, _ = maps
        return self.r1.on_concatenation([self.a1(*maps), skip], [True, False])


def _layers(sequential: nn.Sequential) -> Any:
    """Return the layers of a sequential as a tuple; their classes are known from the plain network."""
    return tuple(sequential)
