"""The building blocks of ResUNet++ on feature maps, each also a module of its own on plain tensors.

Parameters and their names come from the plain classes in ``fastresunet.reference``; only the forward pass differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastresunet import reference
from fastresunet.feature_map import FeatureMap
from fastresunet.normalization import gated_sources, normalized_sources, normalized_sum, uses_batch_statistics
from fastresunet.ops import Backend, Source, conv, excitation
from fastresunet.running_statistics import updated_together


class FusedBlock(nn.Module):
    """A block that maps feature maps to a feature map, or plain tensors to a plain tensor.

    Subclasses inherit from a plain block as well. Where that block's layers have been replaced or have hooks, the plain
    forward pass is computed instead of the fused one.
    """

    fused: Callable[..., FeatureMap]
    backend: Backend = "auto"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.layer_kinds = _layer_kinds(self)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return a ``FeatureMap`` for feature maps and a tensor for tensors; arguments are those of the plain class."""
        maps = [_as_map(x) for x in inputs]
        named_maps = {name: _as_map(x) for name, x in named.items()}
        if can_be_fused(self):
            with updated_together():
                result = self.fused(*maps, **named_maps)
        else:
            tensors = [x.to_tensor() for x in maps]
            plain = super().forward(*tensors, **{name: x.to_tensor() for name, x in named_maps.items()})
            result = FeatureMap.from_tensor(plain)
        given = (*inputs, *named.values())
        return result if all(isinstance(x, FeatureMap) for x in given) else result.to_tensor()


def can_be_fused(block: nn.Module) -> bool:
    """Return whether the layers of ``block`` itself are those that the fused operations assume, without hooks."""
    return _layer_kinds(block) == block.layer_kinds and all(map(_is_plain_layer, _own_layers(block)))


def _own_layers(block: nn.Module) -> list[nn.Module]:
    """Return the layers of ``block`` in order, those of the blocks inside it left out."""
    layers: list[nn.Module] = []
    for child in block.children():
        if not isinstance(child, FusedBlock):
            layers += child if isinstance(child, nn.Sequential) else [child]
    return layers


def _layer_kinds(block: nn.Module) -> list[type[nn.Module]]:
    """Return the classes of the layers; synchronised normalisation counts as normalisation."""
    return [nn.BatchNorm2d if type(x) is nn.SyncBatchNorm else type(x) for x in _own_layers(block)]


def _is_plain_layer(layer: nn.Module) -> bool:
    if layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if type(layer) is nn.Conv2d:
        kernel_size = layer.kernel_size[0]
        padding = layer.dilation[0] * (kernel_size // 2)
        plain = layer.padding_mode == "zeros" and layer.groups == 1 and layer.bias is not None
        return plain and layer.padding == (padding, padding) and layer.kernel_size in ((1, 1), (3, 3))
    if type(layer) in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return layer.weight is not None and layer.bias is not None
    if type(layer) is nn.MaxPool2d:
        return (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode) == (2, 2, 0, False)
    return type(layer) is not nn.Linear or layer.bias is None


class SqueezeExcite(FusedBlock, reference.SqueezeExcite):
    """Squeeze-and-excitation: the squeeze is the map's mean, the excitation becomes its gate; no image is touched."""

    def fused(self, x: FeatureMap) -> FeatureMap:
        """Return the map with its gate set, an earlier gate included."""
        first, _, last, _ = _layers(self.net)
        if x.channels != first.in_features:
            raise ValueError(f"expected features of {first.in_features} channels, got {x.channels}")
        x = x.with_statistics()
        assert x.mean is not None
        mean = x.mean if x.gate is None else x.mean * x.gate
        gate = excitation(mean, first.weight, last.weight, self.backend)
        return FeatureMap(x.data, x.mean, x.m2, gate if x.gate is None else gate * x.gate)


class StemBlock(FusedBlock, reference.StemBlock):
    """First residual block: convolution, BN-ReLU-convolution, normalised 1x1 shortcut, squeeze-and-excitation."""

    attention_class = SqueezeExcite

    def fused(self, x: FeatureMap) -> FeatureMap:
        """Compute the block on the image."""
        first, norm, _, second = _layers(self.c1)
        hidden = conv(
            gated_sources([x], [False]),
            first.weight,
            first.bias,
            statistics=uses_batch_statistics(norm),
            backend=self.backend,
        )
        shortcut = normalized_sum([x], [False], [_layers(self.c2)], backend=self.backend)
        sources = normalized_sources(norm, [FeatureMap(*hidden)], [False], backend=self.backend)
        return self.attn(
            FeatureMap(*conv(sources, second.weight, second.bias, residual=shortcut, backend=self.backend))
        )


class ResidualBlock(FusedBlock, reference.ResidualBlock):
    """Pre-activation residual block with squeeze-and-excitation (ResUNet, Zhang et al. 2018)."""

    attention_class = SqueezeExcite

    def fused(self, x: FeatureMap) -> FeatureMap:
        """Compute the block on one map."""
        return self.on_concatenation([x], [False])

    def on_concatenation(self, maps: Sequence[FeatureMap], upsample: Sequence[bool]) -> FeatureMap:
        """Compute the block on the concatenation of ``maps``, those in ``upsample`` read at twice their size."""
        norm_in, _, first, norm, _, second = _layers(self.c1)
        hidden = conv(
            normalized_sources(norm_in, maps, upsample, backend=self.backend),
            first.weight,
            first.bias,
            stride=first.stride[0],
            statistics=uses_batch_statistics(norm),
            backend=self.backend,
        )
        shortcut = normalized_sum(maps, upsample, [_layers(self.c2)], first.stride[0], self.backend)
        sources = normalized_sources(norm, [FeatureMap(*hidden)], [False], backend=self.backend)
        return self.attn(
            FeatureMap(*conv(sources, second.weight, second.bias, residual=shortcut, backend=self.backend))
        )


class ASPP(FusedBlock, reference.ASPP):
    """Atrous spatial pyramid pooling: the sum of normalised dilated convolutions, projected by a 1x1 convolution."""

    # Whether a BatchNorm reads the result; without, its statistics are not taken.
    feeds_normalization = True

    def fused(self, x: FeatureMap) -> FeatureMap:
        """Compute the block on one map."""
        total = normalized_sum([x], [False], [_layers(branch) for branch in self.branches], backend=self.backend)
        projection, wanted = self.projection, self.training and self.feeds_normalization
        return FeatureMap(
            *conv([Source(total)], projection.weight, projection.bias, statistics=wanted, backend=self.backend)
        )


class AttentionGate(FusedBlock, reference.AttentionGate):
    """Attention gate: pooling, sum and product happen as the three convolutions write."""

    def fused(self, g: FeatureMap, x: FeatureMap) -> FeatureMap:
        """Gate ``x`` by ``g``, the skip connection at twice its resolution."""
        skip_norm, _, skip_conv, _ = _layers(self.g_conv)
        x_norm, _, x_conv = _layers(self.x_conv)
        norm, _, last = _layers(self.gc_conv)
        pooled = conv(
            normalized_sources(skip_norm, [g], [False], backend=self.backend),
            skip_conv.weight,
            skip_conv.bias,
            pool=True,
            statistics=False,
            backend=self.backend,
        )
        total = conv(
            normalized_sources(x_norm, [x], [False], backend=self.backend),
            x_conv.weight,
            x_conv.bias,
            residual=pooled.data,
            statistics=uses_batch_statistics(norm),
            backend=self.backend,
        )
        sources = normalized_sources(norm, [FeatureMap(*total)], [False], backend=self.backend)
        gated = conv(
            sources,
            last.weight,
            last.bias,
            gate=x.data,
            gate_scale=x.gate,
            statistics=self.training,
            backend=self.backend,
        )
        return FeatureMap(*gated)


class DecoderBlock(FusedBlock, reference.DecoderBlock):
    """Attention gate and residual block; the upsampled concatenation between them is an addressing mode."""

    attention_gate_class = AttentionGate
    residual_class = ResidualBlock
    r1: ResidualBlock

    def fused(self, g: FeatureMap, x: FeatureMap) -> FeatureMap:
        """Decode ``x`` with ``g``, the skip connection at twice its resolution."""
        gated = self.a1(g, x)
        if not _runs_unhooked(self.r1):
            upsampled = F.interpolate(gated.to_tensor(), scale_factor=2, mode="nearest")
            return self.r1(FeatureMap.from_tensor(torch.cat([upsampled, g.to_tensor()], dim=1)))
        return self.r1.on_concatenation([gated, g], [True, False])


def _layers(sequential: nn.Sequential) -> Any:
    """Return the layers of a sequential as a tuple; their classes are known from the plain network."""
    return tuple(sequential)


def _runs_unhooked(block: nn.Module) -> bool:
    """Return whether a fused block may be entered past its ``forward``."""
    return (
        isinstance(block, ResidualBlock)
        and not block._forward_hooks
        and not block._forward_pre_hooks
        and can_be_fused(block)
    )


def _as_map(x: Any) -> FeatureMap:
    return x if isinstance(x, FeatureMap) else FeatureMap.from_tensor(x)
