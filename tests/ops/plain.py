"""The fused operations written out in plain PyTorch, with the same signatures: what the tests hold them against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastresunet.ops import AttentionParameters, Branch, ConvOutput, Maps, ResidualParameters, Source


def read(source: Source) -> Tensor:
    h = source.data
    if source.affine is not None:
        affine = source.affine[..., None, None].to(torch.promote_types(h.dtype, torch.float32))
        center, scale, shift = affine if len(affine) == 3 else (0, affine[0], 0)
        # Centre and shift in one number, as PyTorch's BatchNorm does on the CPU.
        h = (h * scale + (shift - center * scale)).to(h.dtype)
    if source.relu:
        h = h.relu()
    return F.interpolate(h, scale_factor=2, mode="nearest") if source.upsample else h


def conv(
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    gate_scale: Tensor | None = None,
    pool: bool = False,
    statistics: bool = True,
) -> ConvOutput:
    h = torch.cat([read(source) for source in sources], dim=1)
    y = F.conv2d(h, weight, bias, stride, dilation * (weight.shape[2] // 2), dilation)
    if residual is not None:
        y = y + residual
    if gate is not None:
        y = y * (gate if gate_scale is None else (gate * gate_scale[..., None, None]).to(gate.dtype))
    if pool:
        y = F.max_pool2d(y, 2)
    if not statistics:
        return ConvOutput(y, None, None)
    pixels = y.flatten(2).to(torch.promote_types(y.dtype, torch.float32))
    mean = pixels.mean(dim=2)
    # Deviations sum to 0, so that M2 has no gradient through the mean.
    return ConvOutput(y, mean, (pixels - mean.detach()[:, :, None]).square().sum(dim=2))


def conv_norm_sum(sources: Sequence[Source], branches: Sequence[Branch], *, stride: int = 1) -> Tensor:
    h = torch.cat([read(source) for source in sources], dim=1)
    total = torch.zeros(())
    for b in branches:
        v = F.conv2d(h, b.weight, b.bias, stride, b.dilation * (b.weight.shape[2] // 2), b.dilation)
        total = total + F.batch_norm(
            v, b.running_mean, b.running_var, b.gamma, b.beta, training=b.running_mean is None, eps=b.eps
        )
    return total


def residual_block(
    maps: Maps, parameters: ResidualParameters, eps: Sequence[float], stride: int = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p, x = parameters, concatenated(maps)
    h = normalized(x, p.norm_in, eps[0]).relu() if p.norm_in[0].numel() else x
    h = convolved(h, p.conv_in, stride)
    h = convolved(normalized(h, p.norm, eps[1]).relu(), p.conv)
    y = h + normalized(convolved(x, p.conv_side, stride), p.norm_side, eps[2])
    mean = y.mean(dim=(2, 3))
    gate = torch.sigmoid(F.linear(F.relu(F.linear(mean, p.excitation[0])), p.excitation[1]))
    return y, mean, (y - mean[..., None, None]).square().sum(dim=(2, 3)), gate


def attention_gate(maps: Maps, parameters: AttentionParameters, eps: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    p, (skip, x) = parameters, map(concatenated, maps.separate())
    s = F.max_pool2d(convolved(normalized(skip, p.norm_skip, eps[0]).relu(), p.conv_skip), 2)
    s = s + convolved(normalized(x, p.norm_in, eps[1]).relu(), p.conv_in)
    y = x * convolved(normalized(s, p.norm, eps[2]).relu(), p.conv)
    mean = y.mean(dim=(2, 3))
    return y, mean, (y - mean[..., None, None]).square().sum(dim=(2, 3))


def concatenated(maps: Maps) -> Tensor:
    gated = [x * g[..., None, None] if g.numel() else x for x, g in zip(maps.data, maps.gate, strict=True)]
    return torch.cat(
        [
            F.interpolate(x, scale_factor=2, mode="nearest") if up else x
            for x, up in zip(gated, maps.upsample, strict=True)
        ],
        dim=1,
    )


def convolved(x: Tensor, parameters: Sequence[Tensor], stride: int = 1) -> Tensor:
    weight, bias = parameters
    return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2)


def normalized(x: Tensor, norm: Sequence[Tensor], eps: float) -> Tensor:
    gamma, beta, *running = norm
    mean, variance = (vector if vector.numel() else None for vector in running)
    return F.batch_norm(x, mean, variance, gamma, beta, training=mean is None, eps=eps)
