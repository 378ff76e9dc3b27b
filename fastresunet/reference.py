"""ResUNet++ in plain PyTorch: the source of truth for parameter names and numbers.

Jha et al., "ResUNet++: An Advanced Architecture for Medical Image Segmentation", ISM 2019, arXiv:1911.07067. Module
names, their order and the arithmetic are those of the published PyTorch implementation, so that its checkpoints load
with ``strict=True``. The fast modules inherit their parameters from these classes and only compute the forward pass
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channel means (Hu et al. 2018, squeeze-and-excitation).

    Args:
        channels: number of input and output channels.
        reduction: the hidden layer has ``channels // reduction`` units.

    Raises:
        ValueError: ``channels // reduction`` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = channels // reduction
        if hidden < 1:
            raise ValueError(
                f"squeeze-and-excitation needs channels >= reduction, got {channels} channels and reduction {reduction}"
            )
        self.net = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x * sigmoid(W2 relu(W1 mean_hw(x)))`` for ``x`` of shape (N, channels, H, W)."""
        gate = self.net(x.mean(dim=(2, 3)))
        return x * gate[:, :, None, None]


class StemBlock(nn.Module):
    """First residual block, without normalisation before its first convolution, at full resolution.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the result.
        se_reduction: reduction of the squeeze-and-excitation at the end.
    """

    attention_class: type[SqueezeExcite] = SqueezeExcite

    def __init__(self, in_channels: int, out_channels: int, se_reduction: int = 8) -> None:
        super().__init__()
        self.c1 = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
        )
        self.c2 = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1), nn.BatchNorm2d(out_channels))
        self.attn = self.attention_class(out_channels, se_reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (N, in_channels, H, W) to features (N, out_channels, H, W)."""
        return self.attn(self.c1(x) + self.c2(x))


class ResidualBlock(nn.Module):
    """Pre-activation residual block with squeeze-and-excitation (ResUNet, Zhang et al. 2018; He et al. 2016).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        stride: stride of the first convolution and of the shortcut.
        se_reduction: reduction of the squeeze-and-excitation at the end.
    """

    attention_class: type[SqueezeExcite] = SqueezeExcite

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, se_reduction: int = 8) -> None:
        super().__init__()
        self.c1 = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
        )
        self.c2 = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride),
            nn.BatchNorm2d(out_channels),
        )
        self.attn = self.attention_class(out_channels, se_reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.attn(self.c1(x) + self.c2(x))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: dilated 3x3 convolutions, each normalised, summed and projected (ResUNet-a).

    Args:
        in_channels: channels of the input.
        out_channels: channels of every branch and of the result.
        rates: dilation of each branch.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: Sequence[int] = (1, 6, 12, 18)) -> None:
        super().__init__()
        self.branch_names = tuple(f"c{i}" for i in range(1, len(rates) + 1))
        for name, rate in zip(self.branch_names, rates, strict=True):
            convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=rate, dilation=rate)
            self.add_module(name, nn.Sequential(convolution, nn.BatchNorm2d(out_channels)))
        self.add_module(f"c{len(rates) + 1}", nn.Conv2d(out_channels, out_channels, kernel_size=1))

    @property
    def branches(self) -> list[nn.Sequential]:
        """The (convolution, normalisation) pairs, in the order of ``rates``."""
        return [self.get_submodule(name) for name in self.branch_names]  # type: ignore[misc]

    @property
    def projection(self) -> nn.Conv2d:
        """The 1x1 convolution applied to the sum of the branches."""
        return self.get_submodule(f"c{len(self.branch_names) + 1}")  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        first, *others = self.branches
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return self.projection(total)


class AttentionGate(nn.Module):
    """Weight decoder features by a map computed from them and the skip connection (after Attention U-Net, no sigmoid).

    Args:
        skip_channels: channels of the skip connection, at twice the resolution.
        channels: channels of the decoder features and of the result.
    """

    def __init__(self, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.g_conv = nn.Sequential(
            nn.BatchNorm2d(skip_channels),
            nn.ReLU(),
            nn.Conv2d(skip_channels, channels, kernel_size=3, padding=1),
            nn.MaxPool2d(2, 2),
        )
        self.x_conv = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        )
        self.gc_conv = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        )

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        """Return the gated ``x``.

        Args:
            g: skip connection (N, skip_channels, 2H, 2W).
            x: decoder features (N, channels, H, W).
        """
        return self.gc_conv(self.g_conv(g) + self.x_conv(x)) * x


class DecoderBlock(nn.Module):
    """Attention gate, nearest x2 upsampling, concatenation with the skip connection, residual block.

    Args:
        skip_channels: channels of the skip connection, at twice the resolution.
        in_channels: channels of the previous decoder features.
        out_channels: channels of the result.
        se_reduction: reduction of the squeeze-and-excitation in the residual block.
    """

    attention_gate_class: type[AttentionGate] = AttentionGate
    residual_class: type[ResidualBlock] = ResidualBlock

    def __init__(self, skip_channels: int, in_channels: int, out_channels: int, se_reduction: int = 8) -> None:
        super().__init__()
        self.a1 = self.attention_gate_class(skip_channels, in_channels)
        self.r1 = self.residual_class(skip_channels + in_channels, out_channels, stride=1, se_reduction=se_reduction)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        """Map skip ``g`` (N, skip_channels, 2H, 2W) and ``x`` (N, in_channels, H, W) to (N, out_channels, 2H, 2W)."""
        upsampled = F.interpolate(self.a1(g, x), scale_factor=2, mode="nearest")
        return self.r1(torch.cat([upsampled, g], dim=1))


class ResUNetPP(nn.Module):
    """ResUNet++ as published (arXiv:1911.07067): logits out, no sigmoid.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 for a binary mask.
        filters: channels of the stem, the three encoder blocks and the bridge.
        se_reduction: reduction of every squeeze-and-excitation.
        aspp_rates: dilation of each branch of the two ASPP modules.

    Raises:
        TypeError: an argument is no integer, or no sequence of integers.
        ValueError: an argument is out of range; the message names it.
    """

    stem_class: type[StemBlock] = StemBlock
    residual_class: type[ResidualBlock] = ResidualBlock
    aspp_class: type[ASPP] = ASPP
    decoder_class: type[DecoderBlock] = DecoderBlock

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        filters: Sequence[int] = (16, 32, 64, 128, 256),
        se_reduction: int = 8,
        aspp_rates: Sequence[int] = (1, 6, 12, 18),
    ) -> None:
        super().__init__()
        check_network_arguments(in_channels, num_classes, filters, se_reduction, aspp_rates)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.filters, self.se_reduction, self.aspp_rates = tuple(filters), se_reduction, tuple(aspp_rates)

        f0, f1, f2, f3, f4 = filters
        self.c1 = self.stem_class(in_channels, f0, se_reduction)
        self.c2 = self.residual_class(f0, f1, stride=2, se_reduction=se_reduction)
        self.c3 = self.residual_class(f1, f2, stride=2, se_reduction=se_reduction)
        self.c4 = self.residual_class(f2, f3, stride=2, se_reduction=se_reduction)
        self.b1 = self.aspp_class(f3, f4, aspp_rates)
        self.d1 = self.decoder_class(f2, f4, f3, se_reduction)
        self.d2 = self.decoder_class(f1, f3, f2, se_reduction)
        self.d3 = self.decoder_class(f0, f2, f1, se_reduction)
        self.aspp = self.aspp_class(f1, f0, aspp_rates)
        self.output = nn.Conv2d(f0, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes, H, W) for images (N, in_channels, H, W); H and W are multiples of 8."""
        c1 = self.c1(x)
        c2 = self.c2(c1)
        c3 = self.c3(c2)
        c4 = self.c4(c3)
        bridge = self.b1(c4)
        d1 = self.d1(c3, bridge)
        d2 = self.d2(c2, d1)
        d3 = self.d3(c1, d2)
        return self.output(self.aspp(d3))


def check_network_arguments(
    in_channels: int, num_classes: int, filters: Sequence[int], se_reduction: int, aspp_rates: Sequence[int]
) -> None:
    """Raise a ``TypeError`` or ``ValueError`` that names the first constructor argument that cannot be used."""
    for name, value in (("in_channels", in_channels), ("num_classes", num_classes), ("se_reduction", se_reduction)):
        _check_positive(name, value)
    for name, values in (("filters", filters), ("aspp_rates", aspp_rates)):
        if isinstance(values, str | int) or not isinstance(values, Sequence):
            raise TypeError(f"{name} must be a sequence of positive integers, got {values!r}")
        for position, value in enumerate(values):
            _check_positive(f"{name}[{position}]", value)
    if len(filters) != 5:
        raise ValueError(
            f"filters must hold 5 numbers (stem, three encoder blocks, bridge), got {len(filters)}: {tuple(filters)}"
        )
    if not aspp_rates:
        raise ValueError("aspp_rates must hold at least one dilation, got none")
    if min(filters[:4]) < se_reduction:
        raise ValueError(
            f"se_reduction={se_reduction} must not exceed the smallest of filters[:4]={tuple(filters[:4])}"
        )


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a positive integer, got {value!r} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}")
