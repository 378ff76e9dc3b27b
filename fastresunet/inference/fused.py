"""The folded network from the fused operations of ``ops.folded``: what the steps compute one by one.

Of each map only the raw convolution output is written. A residual block's shortcut is added by its second convolution,
and its squeeze-and-excitation goes into the affines of those who read the block: reader 0 of a skip connection is the
next encoder block, 1 the attention gate, 2 the decoder's residual block; the only reader of a decoder is the next
decoder's gate.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fastresunet.inference.packing import affine_of, pack_pyramid, pack_sources, pack_taps, parameters_of
from fastresunet.inference.steps import Convolution, Features, PlanePyramid, Pyramid
from fastresunet.ops.backend import Backend, repeating
from fastresunet.ops.folded import folded_conv, folded_excited_conv, folded_pyramid
from fastresunet.ops.layout import channels_last
from fastresunet.ops.library import is_plain_eager
from fastresunet.ops.source import accumulation_dtype

if TYPE_CHECKING:
    from fastresunet.inference.network import FoldedBlock, FoldedDecoder, FoldedResUNetPP


class _Map(NamedTuple):
    """Raw features (N, C, H, W), their excitation (1, N, C) or nothing, and the affine of each reader."""

    data: Tensor
    gate: Tensor
    affine: Tensor


def pack_network(network: FoldedResUNetPP, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights that ``fused_logits`` reads, by name.

    Args:
        network: what they come from.
        dtype: of the features.
    """
    weights: dict[str, Tensor] = {}
    encoders: list[FoldedBlock] = list(network.encoder)  # type: ignore[arg-type]
    decoders: list[FoldedDecoder] = list(network.decoder)  # type: ignore[arg-type]
    gates = [decoder.attention for decoder in decoders]
    names = ["stem", *(f"encoder{level}" for level in range(len(encoders)))]
    for level, (name, block) in enumerate(zip(names, [network.stem, *encoders], strict=True)):
        weights[f"{name}_first"], weights[f"{name}_second"] = pack_taps(block.first.weight), _second(block)
        weights[f"{name}_side"] = block.shortcut.weight.flatten(1)
        weights[f"{name}_bias"] = block.second.bias + block.shortcut.bias
        readers: list[Convolution] = []
        if level < len(decoders):
            readers = [encoders[level].first, gates[-1 - level].skip, decoders[-1 - level].skip]
        weights |= _readers(name, readers, block.second.bias)
    for level, decoder in enumerate(decoders):
        name, gate = f"decoder{level}", decoder.attention
        weights[f"{name}_skip"] = pack_taps(gate.skip.weight)
        weights[f"{name}_features"] = pack_taps(gate.features.weight)
        weights[f"{name}_product"] = pack_taps(gate.product.weight)
        weights[f"{name}_first"] = pack_sources(decoder.upsampled, decoder.skip)
        weights[f"{name}_affine"] = affine_of(decoder.upsampled)
        weights[f"{name}_second"] = _second(decoder)
        shortcuts: list[Tensor] = [decoder.upsampled_shortcut.weight, decoder.skip_shortcut.weight]
        weights[f"{name}_side"] = torch.cat(shortcuts, dim=1).flatten(1)
        weights[f"{name}_bias"] = decoder.second.bias + decoder.skip_shortcut.bias
        readers = [gate.features for gate in gates[level + 1 : level + 2]]
        weights |= _readers(name, readers, decoder.second.bias)
    weights["bridge"], weights["head"] = pack_pyramid(network.bridge), pack_pyramid(network.head)
    weights["bridge_affine"] = affine_of(gates[0].features)
    vectors = ("_bias", "_scale", "_shift", "_affine")
    return {
        name: weight.to(accumulation_dtype(dtype) if name.endswith(vectors) else dtype, copy=True).contiguous()
        for name, weight in weights.items()
    }


def fused_logits(network: FoldedResUNetPP, x: Tensor, weights: dict[str, Tensor], backend: Backend) -> Tensor:
    """Return the logits of images whose sides are multiples of 8.

    Args:
        network: folded network.
        x: images (N, in_channels, H, W), channels-last, in the dtype to compute in.
        weights: of ``pack_network`` in that dtype.
        backend: what computes the operations.
    """
    if torch.compiler.is_compiling() or not is_plain_eager([x]) or (torch.is_grad_enabled() and x.requires_grad):
        return _logits(network, x, weights, backend)
    tensors = [*weights.values(), *parameters_of(network)]
    logits: Tensor = _repeated_logits(weakref.ref(network), x, tensors, tuple(weights), backend)
    return logits


def _logits(network: FoldedResUNetPP, x: Tensor, weights: dict[str, Tensor], backend: Backend) -> Tensor:
    fused = _Fused(weights, backend)
    nothing = x.new_empty(0, dtype=accumulation_dtype(x.dtype))
    skips = [fused.block("stem", network.stem, _Map(x, nothing, nothing[None]))]
    for level, block in enumerate(network.encoder):
        skips.append(fused.block(f"encoder{level}", block, skips[-1]))  # type: ignore[arg-type]
    last = skips.pop()
    bridge = fused.pyramid("bridge", network.bridge, last)
    features = _Map(bridge, nothing, weights["bridge_affine"][None])
    for level, decoder in enumerate(network.decoder):
        features = fused.decoder(f"decoder{level}", decoder, skips.pop(), features)  # type: ignore[arg-type]
    return fused.pyramid("head", network.head, features)


def _logits_from(
    network_of: weakref.ReferenceType[FoldedResUNetPP],
    x: Tensor,
    tensors: list[Tensor],
    names: tuple[str, ...],
    backend: Backend,
) -> Tensor:
    """Return the logits from all tensors that they depend on, the weights of ``names`` first."""
    network = network_of()
    assert network is not None
    return _logits(network, x, dict(zip(names, tensors, strict=False)), backend)


# The whole pass in one recording: repeating it costs the host less than half of repeating its operations one by one.
# The network is a weak reference, as a recording must not keep it.
_repeated_logits = repeating(_logits_from)


class _Fused:
    """Computes blocks from packed weights."""

    def __init__(self, weights: dict[str, Tensor], backend: Backend) -> None:
        self.weights, self.backend = weights, backend

    def block(self, name: str, block: FoldedBlock, x: _Map) -> _Map:
        if block.first.pads_end_only:
            return self._plain_block(name, block, x)
        hidden = self._conv(f"{name}_first", block.first, x.data, x.affine[0], stride=block.first.stride)
        return self._end(name, block, hidden, [x.data], [x.gate], [False], block.shortcut.stride)

    def decoder(self, name: str, decoder: FoldedDecoder, g: _Map, x: _Map) -> _Map:
        gate, nothing = decoder.attention, x.gate.new_empty(0)
        pooled = self._conv(f"{name}_skip", gate.skip, g.data, g.affine[1], sign=gate.sign.flatten())
        total = self._conv(f"{name}_features", gate.features, x.data, x.affine[0], residual=pooled)
        scale = x.gate[0] if x.gate.numel() else None
        a = self._conv(f"{name}_product", gate.product, total, nothing, relu=True, gate=x.data, gate_scale=scale)
        weight, affines = self.weights[f"{name}_first"], [self.weights[f"{name}_affine"], g.affine[2]]
        sources = ([a, g.data], affines, [True, True], [True, False])
        hidden = folded_conv(*sources, weight, decoder.skip.bias, 1, None, None, None, None, self.backend)
        return self._end(name, decoder, hidden, [a, g.data], [nothing, g.gate], [True, False], 1)

    def pyramid(self, name: str, pyramid: Pyramid | PlanePyramid, x: _Map) -> Tensor:
        result: Tensor = folded_pyramid(
            x.data, x.gate, self.weights[name], pyramid.bias, list(pyramid.rates), self.backend
        )
        return result

    def _conv(
        self,
        name: str,
        convolution: Convolution,
        data: Tensor,
        affine: Tensor,
        relu: bool = False,
        stride: int = 1,
        residual: Tensor | None = None,
        gate: Tensor | None = None,
        gate_scale: Tensor | None = None,
        sign: Tensor | None = None,
    ) -> Tensor:
        """Return a convolution of one source; an affine has a ReLU after it."""
        source = ([data], [affine], [relu or affine.numel() > 0], [False])
        weight, finish = self.weights[name], (residual, gate, gate_scale, sign)
        result: Tensor = folded_conv(*source, weight, convolution.bias, stride, *finish, self.backend)
        return result

    def _end(
        self,
        name: str,
        block: FoldedBlock | FoldedDecoder,
        hidden: Tensor,
        side: list[Tensor],
        side_affine: list[Tensor],
        side_upsample: list[bool],
        stride: int,
    ) -> _Map:
        weights, excitation = self.weights, block.excitation
        output, gate, affine = folded_excited_conv(
            [hidden],
            [side_affine[0].new_empty(0)],
            [True],
            weights[f"{name}_second"],
            weights[f"{name}_bias"],
            side,
            side_affine,
            side_upsample,
            weights[f"{name}_side"],
            stride,
            excitation.first,
            excitation.last,
            weights[f"{name}_scale"],
            weights[f"{name}_shift"],
            self.backend,
        )
        return _Map(output, gate[None], affine)

    def _plain_block(self, name: str, block: FoldedBlock, x: _Map) -> _Map:
        """Compute a block with TensorFlow's padding, which the operations do not have, by its steps."""
        given, result = x.gate[0].to(x.data.dtype)[:, :, None, None], x.gate.dtype
        features: Features = block(Features(x.data, given))
        assert features.gate is not None
        gate = features.gate.flatten(1).to(result)
        scale, shift = self.weights[f"{name}_scale"][:, None], self.weights[f"{name}_shift"][:, None]
        vectors = [torch.zeros_like(scale * gate), scale * gate, shift.expand(-1, *gate.shape)]
        return _Map(channels_last(features.data), gate[None], torch.stack([*vectors], dim=1))


def _second(block: FoldedBlock | FoldedDecoder) -> Tensor:
    return pack_taps(block.second.weight)


def _readers(name: str, readers: list[Convolution], like: Tensor) -> dict[str, Tensor]:
    """Return scales and shifts (readers, C) of what reads a block of ``like``'s channels."""
    affines = [affine_of(reader) for reader in readers]
    stacked = torch.stack(affines, dim=1) if affines else like.new_empty(2, 0, like.shape[0])
    return {f"{name}_scale": stacked[0], f"{name}_shift": stacked[1]}
