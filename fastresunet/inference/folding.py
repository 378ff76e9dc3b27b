"""``fold``: from a trained network to the folded one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastresunet import reference
from fastresunet.inference.algebra import (
    batch_norm_affine,
    normalized_convolution,
    projected_pyramid,
    scale_outputs,
    transposed_weight,
    weight_and_bias,
)
from fastresunet.inference.foldable import check_foldable
from fastresunet.inference.network import FoldedAttentionGate, FoldedBlock, FoldedDecoder, FoldedResUNetPP
from fastresunet.inference.steps import Convolution, Excitation, PlanePyramid, Pyramid, UpsampledConvolution
from fastresunet.keras import SameConv2d
from fastresunet.ops import Backend, check_backend

# Up to here a plane for each tap and output takes less time than dilated convolutions, on CPUs at 256x256.
_MOST_PLANE_CLASSES = 3


@torch.inference_mode(False)  # whose tensors could not take part in a gradient
@torch.no_grad()
def fold(model: reference.ResUNetPP, backend: Backend = "auto") -> FoldedResUNetPP:
    """Fold a trained network: the same logits in evaluation mode, from fewer operations.

    Everything that running statistics make linear is multiplied out in float64 and rounded once to the network's dtype;
    docs/inference.md lists the steps. The network is left as it is, and its weights are copied: train it on and fold it
    again whenever the new weights are wanted.

    Args:
        model: ``FastResUNetPP``, ``KerasResUNetPP`` or ``ResUNetPP``, in training or evaluation mode; the running
            statistics are used.
        backend: what computes the folded network, see ``FoldedResUNetPP``.

    Returns:
        The folded network on the same device, in the dtype of ``model.output.weight``.

    Raises:
        RuntimeError: the backend is not available.
        TypeError: ``model`` is none of them.
        ValueError: there is no such backend, a layer was replaced, altered or hooked, or a normalisation has no running
            statistics; the message names it.
    """
    check_backend(backend)
    check_foldable(model)
    fold_into = _Folding(model.output.weight.dtype)
    head = projected_pyramid(model.aspp.branches, [model.aspp.projection, model.output])
    pyramid_class = PlanePyramid if model.num_classes <= _MOST_PLANE_CLASSES else Pyramid
    return FoldedResUNetPP(
        fold_into.stem(model.c1),
        [fold_into.block(block) for block in (model.c2, model.c3, model.c4)],
        Pyramid(*projected_pyramid(model.b1.branches, [model.b1.projection]), dtype=fold_into.dtype),
        [fold_into.decoder(block) for block in (model.d1, model.d2, model.d3)],
        pyramid_class(*head, dtype=fold_into.dtype),
        in_channels=model.in_channels,
        num_classes=model.num_classes,
        filters=model.filters,
        aspp_rates=model.aspp_rates,
        backend=backend,
    )


class _Folding:
    """Folds blocks into modules of one dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def stem(self, block: reference.StemBlock) -> FoldedBlock:
        first, norm, _, second = _layers(block.c1)
        return FoldedBlock(
            Convolution(*normalized_convolution(nn.Sequential(first, norm)), dtype=self.dtype),
            Convolution(*weight_and_bias(second), dtype=self.dtype),
            Convolution(*normalized_convolution(block.c2), dtype=self.dtype),
            self._excitation(block.attn),
        )

    def block(self, block: reference.ResidualBlock) -> FoldedBlock:
        norm_in, _, first, norm, _, second = _layers(block.c1)
        stride = first.stride[0]
        return FoldedBlock(
            Convolution(
                *normalized_convolution(nn.Sequential(first, norm)),
                batch_norm_affine(norm_in),
                stride,
                pads_end_only=isinstance(first, SameConv2d),
                dtype=self.dtype,
            ),
            Convolution(*weight_and_bias(second), dtype=self.dtype),
            Convolution(*normalized_convolution(block.c2), stride=stride, dtype=self.dtype),
            self._excitation(block.attn),
        )

    def decoder(self, block: reference.DecoderBlock) -> FoldedDecoder:
        norm_in, _, first, norm, _, second = _layers(block.r1.c1)
        weight, bias = normalized_convolution(nn.Sequential(first, norm))
        shortcut, shortcut_bias = normalized_convolution(block.r1.c2)
        # The concatenation holds the upsampled features first.
        upsampled = _layers(block.a1.gc_conv)[2].out_channels
        affine_up, affine_skip = zip(*(v.tensor_split([upsampled]) for v in batch_norm_affine(norm_in)), strict=True)
        weight_up, weight_skip = weight.tensor_split([upsampled], dim=1)
        shortcut_up, shortcut_skip = shortcut.tensor_split([upsampled], dim=1)
        return FoldedDecoder(
            self._attention(block.a1),
            UpsampledConvolution(transposed_weight(weight_up), affine_up, self.dtype),
            UpsampledConvolution(shortcut_up, dtype=self.dtype),
            Convolution(weight_skip, bias, affine_skip, dtype=self.dtype),
            Convolution(shortcut_skip, shortcut_bias, dtype=self.dtype),
            Convolution(*weight_and_bias(second), dtype=self.dtype),
            self._excitation(block.r1.attn),
        )

    def _attention(self, gate: reference.AttentionGate) -> FoldedAttentionGate:
        skip_norm, _, skip, _ = _layers(gate.g_conv)
        x_norm, _, features = _layers(gate.x_conv)
        norm, _, product = _layers(gate.gc_conv)
        scale, shift = batch_norm_affine(norm)
        return FoldedAttentionGate(
            Convolution(
                *scale_outputs(*weight_and_bias(skip), scale.abs()), batch_norm_affine(skip_norm), dtype=self.dtype
            ),
            scale.sign(),
            Convolution(
                *scale_outputs(*weight_and_bias(features), scale, shift), batch_norm_affine(x_norm), dtype=self.dtype
            ),
            Convolution(*weight_and_bias(product), dtype=self.dtype),
        )

    def _excitation(self, block: reference.SqueezeExcite) -> Excitation:
        first, _, last, _ = _layers(block.net)
        return Excitation(first.weight.detach().double(), last.weight.detach().double(), self.dtype)


def _layers(sequential: nn.Sequential) -> Any:
    """Return the layers of a sequential as a tuple; their classes are checked."""
    return tuple(sequential)
