"""The building blocks of ResUNet++ on feature maps, each also a module of its own on plain tensors.

Parameters and their names come from the plain classes in ``fastresunet.reference``; only the forward pass differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastresunet import reference
from fastresunet.distributed import is_synchronized
from fastresunet.feature_map import FeatureMap
from fastresunet.normalization import (
    as_maps,
    gated_sources,
    norm_vectors,
    normalized_sources,
    normalized_sum,
    pixels,
    update_from_batch,
    uses_batch_statistics,
)
from fastresunet.ops import (
    AttentionParameters,
    Backend,
    ResidualParameters,
    Source,
    attention_gate,
    conv,
    excitation,
    residual_block,
)
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
            # torch.compile before PyTorch 2.13 cannot extend a list by a Sequential.
            layers += list(child) if isinstance(child, nn.Sequential) else [child]
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
        return _residual([x], [False], None, first, norm, second, self.c2, self.attn, self.backend)


class ResidualBlock(FusedBlock, reference.ResidualBlock):
    """Pre-activation residual block with squeeze-and-excitation (ResUNet, Zhang et al. 2018)."""

    attention_class = SqueezeExcite

    def fused(self, x: FeatureMap) -> FeatureMap:
        """Compute the block on one map."""
        return self.on_concatenation([x], [False])

    def on_concatenation(self, maps: Sequence[FeatureMap], upsample: Sequence[bool]) -> FeatureMap:
        """Compute the block on the concatenation of ``maps``, those in ``upsample`` read at twice their size."""
        norm_in, _, first, norm, _, second = _layers(self.c1)
        return _residual(maps, upsample, norm_in, first, norm, second, self.c2, self.attn, self.backend)


def _residual(
    maps: Sequence[FeatureMap],
    upsample: Sequence[bool],
    norm_in: Any,
    first: Any,
    norm: Any,
    second: Any,
    shortcut: nn.Sequential,
    attention: Any,
    backend: Backend,
) -> FeatureMap:
    """Compute a residual block as one operation, or from its parts where something comes between them."""
    side, norm_side = _layers(shortcut)
    norms = [norm, norm_side] if norm_in is None else [norm_in, norm, norm_side]
    stride = first.stride[0]
    if not _runs_unhooked(attention, SqueezeExcite) or any(map(is_synchronized, norms)):
        if norm_in is None:
            sources = gated_sources(maps, upsample)
        else:
            sources = normalized_sources(norm_in, maps, upsample, backend=backend)
        statistics = uses_batch_statistics(norm)
        hidden = conv(sources, first.weight, first.bias, stride=stride, statistics=statistics, backend=backend)
        total = normalized_sum(maps, upsample, [(side, norm_side)], stride, backend)
        sources = normalized_sources(norm, [FeatureMap(*hidden)], [False], backend=backend)
        return attention(FeatureMap(*conv(sources, second.weight, second.bias, residual=total, backend=backend)))
    if norm_in is not None:
        maps = [_with_needed_statistics(x, norm_in) for x in maps]
    vectors = [norm_vectors(norm) for norm in norms]
    if norm_in is None:
        vectors.insert(0, [first.weight.new_empty(0)] * 4)
    excite, _, recover, _ = _layers(attention.net)
    parameters = ResidualParameters(
        vectors[0],
        _own(first),
        vectors[1],
        _own(second),
        vectors[2],
        _own(side),
        (excite.weight, recover.weight),
    )
    eps = [0.0 if norm_in is None else norm_in.eps, norm.eps, norm_side.eps]
    result = residual_block(as_maps(maps, upsample), parameters, eps, stride, backend)
    samples, _, height, width = result.data.shape
    written = samples * height * width
    read = samples * pixels(maps, upsample)
    counts = [written, written] if norm_in is None else [read, written, written]
    for norm, (mean, variance), count in zip(norms, result.batch[-len(norms) :], counts, strict=True):
        update_from_batch(norm, mean, variance, count)
    return FeatureMap(result.data, result.mean, result.m2, result.gate)


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
        norms, backend = [skip_norm, x_norm, norm], self.backend
        if not any(map(is_synchronized, norms)):
            skip, x = (_with_needed_statistics(*pair) for pair in zip((g, x), norms, strict=False))
            parameters = AttentionParameters(
                *(v for n, c in zip(norms, (skip_conv, x_conv, last), strict=True) for v in (norm_vectors(n), _own(c)))
            )
            eps = [n.eps for n in norms]
            gated = attention_gate(as_maps([skip, x], [False, False]), parameters, eps, self.training, backend)
            for n, batch, source in zip(norms, gated.batch, (skip, x, x), strict=True):
                update_from_batch(n, *batch, source.data.shape[0] * pixels([source], [False]))
            return FeatureMap(gated.data, gated.mean, gated.m2) if self.training else FeatureMap(gated.data)
        sources = normalized_sources(skip_norm, [g], [False], backend=backend)
        pooled = conv(sources, skip_conv.weight, skip_conv.bias, pool=True, statistics=False, backend=backend)
        sources = normalized_sources(x_norm, [x], [False], backend=backend)
        statistics = uses_batch_statistics(norm)
        total = conv(sources, x_conv.weight, x_conv.bias, residual=pooled.data, statistics=statistics, backend=backend)
        sources = normalized_sources(norm, [FeatureMap(*total)], [False], backend=backend)
        gated_map = conv(
            sources,
            last.weight,
            last.bias,
            gate=x.data,
            gate_scale=x.gate,
            statistics=self.training,
            backend=backend,
        )
        return FeatureMap(*gated_map)


class DecoderBlock(FusedBlock, reference.DecoderBlock):
    """Attention gate and residual block; the upsampled concatenation between them is an addressing mode."""

    attention_gate_class = AttentionGate
    residual_class = ResidualBlock
    r1: ResidualBlock

    def fused(self, g: FeatureMap, x: FeatureMap) -> FeatureMap:
        """Decode ``x`` with ``g``, the skip connection at twice its resolution."""
        gated = self.a1(g, x)
        if not _runs_unhooked(self.r1, ResidualBlock):
            upsampled = F.interpolate(gated.to_tensor(), scale_factor=2, mode="nearest")
            return self.r1(FeatureMap.from_tensor(torch.cat([upsampled, g.to_tensor()], dim=1)))
        return self.r1.on_concatenation([gated, g], [True, False])


def _with_needed_statistics(x: FeatureMap, norm: Any) -> FeatureMap:
    return x.with_statistics() if uses_batch_statistics(norm) else x


def _own(convolution: Any) -> tuple[Tensor, Tensor]:
    return convolution.weight, convolution.bias


def _layers(sequential: nn.Sequential) -> Any:
    """Return the layers of a sequential as a tuple; their classes are known from the plain network."""
    return tuple(sequential)


def _runs_unhooked(block: nn.Module, kind: type[FusedBlock]) -> bool:
    """Return whether a block is of a fused ``kind`` that may be entered past its ``forward``."""
    return isinstance(block, kind) and not block._forward_hooks and not block._forward_pre_hooks and can_be_fused(block)


def _as_map(x: Any) -> FeatureMap:
    return x if isinstance(x, FeatureMap) else FeatureMap.from_tensor(x)
