"""The folded network: ResUNet++ after its algebra, in convolutions, affines and gates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastresunet.inference.fused import fused_logits, pack_network
from fastresunet.inference.packing import PackedWeights, version_of
from fastresunet.inference.steps import (
    Convolution,
    Excitation,
    Features,
    PlanePyramid,
    Pyramid,
    UpsampledConvolution,
)
from fastresunet.ops import Backend
from fastresunet.ops.autocast import autocast_dtype
from fastresunet.ops.backend import takes_kernels

SIZE_MULTIPLE = 8  # three halvings


class FoldedBlock(nn.Module):
    """Residual block: ``u = second(relu(first(x))) + shortcut(x)``, and the excitation of ``u``.

    Args:
        first: 3x3 convolution with the BatchNorm after it, or before and after it.
        second: 3x3 convolution.
        shortcut: 1x1 convolution with the BatchNorm after it.
        excitation: squeeze-and-excitation.
    """

    def __init__(self, first: Convolution, second: Convolution, shortcut: Convolution, excitation: Excitation) -> None:
        super().__init__()
        self.first, self.second, self.shortcut, self.excitation = first, second, shortcut, excitation

    def forward(self, x: Features) -> Features:
        """Map (N, I, H, W) to (N, O, ceil(H / stride), ceil(W / stride))."""
        hidden = Features(self.first(x).relu())
        gated: Features = self.excitation(self.second(hidden, residual=self.shortcut(x)))
        return gated


class FoldedAttentionGate(nn.Module):
    """Attention gate: ``x * product(relu(skip_sign * maxpool2(skip(g)) + features(x)))``.

    The BatchNorm between the sum and the ReLU is folded into both convolutions. A maximum does not commute with a
    negative scale: ``s max(v) = sign(s) max(|s| v)``.

    Args:
        skip: 3x3 convolution of the skip connection, times ``|s|``.
        sign: sign of ``s`` (C), in float64.
        features: 3x3 convolution of the decoder's features, times ``s``.
        product: 3x3 convolution.
    """

    def __init__(self, skip: Convolution, sign: Tensor, features: Convolution, product: Convolution) -> None:
        super().__init__()
        self.skip, self.features, self.product = skip, features, product
        self.sign = nn.Parameter(sign.to(skip.weight.dtype)[:, None, None], requires_grad=False)

    def forward(self, g: Features, x: Features) -> Features:
        """Gate ``x`` (N, C, H, W) by ``g`` (N, S, 2H, 2W)."""
        pooled = F.max_pool2d(self.skip(g), 2) * self.sign
        total = Features(self.features(x, residual=pooled).relu())
        return Features(self.product(total) * x.to_tensor())


class FoldedDecoder(nn.Module):
    """Attention gate, and the residual block of its upsampled result beside the skip connection.

    Both convolutions of the concatenation are sums over its halves, the upsampled half computed from the small map.

    Args:
        attention: the gate.
        upsampled: 3x3 convolution of the upsampled half, with the BatchNorms around it.
        upsampled_shortcut: 1x1 convolution of the upsampled half, with the BatchNorm after it.
        skip: 3x3 convolution of the skip connection, with the BatchNorms around it and the bias.
        skip_shortcut: 1x1 convolution of the skip connection, with the BatchNorm after it and the bias.
        second: 3x3 convolution.
        excitation: squeeze-and-excitation.
    """

    def __init__(
        self,
        attention: FoldedAttentionGate,
        upsampled: UpsampledConvolution,
        upsampled_shortcut: UpsampledConvolution,
        skip: Convolution,
        skip_shortcut: Convolution,
        second: Convolution,
        excitation: Excitation,
    ) -> None:
        super().__init__()
        self.attention, self.second, self.excitation = attention, second, excitation
        self.upsampled, self.upsampled_shortcut = upsampled, upsampled_shortcut
        self.skip, self.skip_shortcut = skip, skip_shortcut

    def forward(self, g: Features, x: Features) -> Features:
        """Map skip ``g`` (N, S, 2H, 2W) and ``x`` (N, I, H, W) to (N, O, 2H, 2W)."""
        a = self.attention(g, x)
        hidden = Features(self.skip(g, residual=self.upsampled(a)).relu())
        shortcut = self.skip_shortcut(g, residual=self.upsampled_shortcut(a))
        gated: Features = self.excitation(self.second(hidden, residual=shortcut))
        return gated


class FoldedResUNetPP(nn.Module):
    """ResUNet++ with running statistics after its exact algebra; made by ``fastresunet.fold``, for inference only.

    It holds copies of the weights it was folded from, as parameters that need no gradient, and moves between devices
    and dtypes, is copied, pickled and compiled like any module. ``train()`` changes nothing: there is nothing to train.

    Triton kernels read the weights from a packed copy, made at the first call. Each call packs again if a parameter was
    changed in place (its version tells), moved or cast. ``load_state_dict`` writes the new weights into the same
    memory, so that captured CUDA graphs have them too. A compiled network checks none of this: it takes the copy it
    finds, and packs in its graph where there is none. So call ``warmup`` first, and after changes of another kind.

    Attributes:
        in_channels: channels of the image.
        num_classes: channels of the logits.
        filters: channels of the stem, the three encoder blocks and the bridge.
        aspp_rates: dilation rates of both ASPP modules, as given to the network.
        backend: ``"torch"``: the steps, in plain PyTorch; ``"triton"``: Triton kernels; ``"auto"``: Triton kernels on
            GPUs where Triton is installed, plain PyTorch elsewhere. An exported graph always has the steps.
    """

    def __init__(
        self,
        stem: FoldedBlock,
        encoder: list[FoldedBlock],
        bridge: Pyramid,
        decoder: list[FoldedDecoder],
        head: Pyramid | PlanePyramid,
        *,
        in_channels: int,
        num_classes: int,
        filters: tuple[int, ...],
        aspp_rates: tuple[int, ...],
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.stem, self.bridge, self.head = stem, bridge, head
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.filters, self.aspp_rates, self.backend = filters, aspp_rates, backend
        self.packed: PackedWeights | None
        self.register_module("packed", None)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits for images of any size from 8 x 8 on.

        Sizes that are no multiple of 8 are padded on the right and at the bottom by repeating the last column and row,
        and the logits are cropped back.

        Args:
            x: images (N, in_channels, H, W) in the parameters' dtype (any floating dtype under autocast).

        Returns:
            Logits (N, num_classes, H, W).

        Raises:
            TypeError: ``x`` is no floating-point tensor of the parameters' dtype.
            ValueError: shape or device of ``x`` do not fit.
        """
        logits = self.logits(self.padded(x).contiguous(memory_format=torch.channels_last))
        return logits[:, :, : x.shape[2], : x.shape[3]].contiguous()

    def padded(self, x: Tensor) -> Tensor:
        """Return the images with sides that are multiples of 8; arguments and errors are those of ``forward``."""
        self._check_image(x)
        # Inductor knows no remainder of a negative symbolic size.
        bottom, right = ((SIZE_MULTIPLE - size % SIZE_MULTIPLE) % SIZE_MULTIPLE for size in x.shape[2:])
        return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x

    @torch.no_grad()
    def warmup(self, shapes: Iterable[Sequence[int]], dtype: torch.dtype | None = None) -> FoldedResUNetPP:
        """Compute an image of zeros of each shape, so that kernels are compiled and weights packed before serving.

        Args:
            shapes: (N, in_channels, H, W) each.
            dtype: of the images; the parameters' if None. Call it under autocast for a network served under autocast.

        Returns:
            The network itself.
        """
        bias = self.head.bias
        for shape in shapes:
            self(torch.zeros(tuple(shape), dtype=dtype or bias.dtype, device=bias.device))
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load parameters as any module does, and pack them where the old ones were packed."""
        result = super().load_state_dict(*args, **kwargs)
        if self.packed is not None:
            self._update(self.packed)
        return result

    @torch.no_grad()
    def repack(self) -> None:
        """Write the parameters into the packed weights if one was changed in place since; a pass does so by itself."""
        if self.packed is not None and self.packed.version != version_of(self):
            self._update(self.packed)

    def logits(self, x: Tensor) -> Tensor:
        """Return logits for images whose sides are multiples of 8; nothing is checked."""
        if not torch.compiler.is_exporting() and takes_kernels(self.backend, x.device):
            dtype = autocast_dtype(x.device.type)
            if dtype is not None and x.dtype != torch.float64:
                x = x.to(dtype)
            return fused_logits(self, x, self._packed_weights(x.dtype), "triton")
        c1 = self.stem(Features(x))
        c2 = self.encoder[0](c1)
        c3 = self.encoder[1](c2)
        c4 = self.encoder[2](c3)
        features = Features(self.bridge(c4))
        for decoder, skip in zip(self.decoder, (c3, c2, c1), strict=True):
            features = decoder(skip, features)
        logits: Tensor = self.head(features)
        return logits

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.packed = None
        return super()._apply(*args, **kwargs)

    @torch.no_grad()
    def _packed_weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the weights for features of ``dtype`` as the kernels read them."""
        packed = self.packed
        fits = packed is not None and packed.dtype == dtype
        if torch.compiler.is_compiling():
            return packed.by_name() if packed is not None and fits else pack_network(self, dtype)
        if packed is None or not fits:
            packed = self.packed = PackedWeights(pack_network(self, dtype), dtype, version_of(self))
        else:
            self.repack()
        return packed.by_name()

    @torch.no_grad()
    def _update(self, packed: PackedWeights) -> None:
        packed.update(pack_network(self, packed.dtype), version_of(self))

    def _check_image(self, x: Tensor) -> None:
        expected = f"a floating-point tensor (N, {self.in_channels}, H, W) with H and W of at least {SIZE_MULTIPLE}"
        if not isinstance(x, Tensor):
            raise TypeError(f"the image must be {expected}, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"the image must be {expected}, got dtype {x.dtype}; convert it, e.g. x.float() / 255")
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < SIZE_MULTIPLE or x.shape[0] < 1:
            raise ValueError(f"the image must be {expected}, got shape {tuple(x.shape)}")
        weight = self.head.bias
        if x.device != weight.device:
            raise ValueError(
                f"the image is on {x.device}, the model on {weight.device}: move one of them with .to(device)"
            )
        if x.dtype != weight.dtype and autocast_dtype(x.device.type) is None:
            raise TypeError(f"the image is {x.dtype}, the model {weight.dtype}: convert one of them with .to(dtype)")
