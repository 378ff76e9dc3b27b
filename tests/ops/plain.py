"""The fused operations written out in plain PyTorch, with the same signatures: what the tests hold them against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastresunet.ops import Branch, ConvOutput, Source


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
