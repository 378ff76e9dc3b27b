"""Launchers of the sum of normalised convolutions, with the schemas of ``conv_norm_sum`` and its backward.

The convolutions and their gradients are the kernels'; the arithmetic between them, a few passes over one image, is
PyTorch's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .convolution import conv
from .gradients import input_gradients, weight_gradient
from .pack import pack_weight


def conv_norm_sum(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: list[Tensor],
    stride: int,
    dilation: list[int],
    gamma: Tensor,
    beta: Tensor,
    eps: list[float],
    running_mean: Tensor | None,
    running_var: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum over branches, and the mean and variance (branches, C) each branch was normalised with."""
    total: Tensor | None = None
    means, variances = [], []
    for k, (w, b, rate) in enumerate(zip(weight, bias, dilation, strict=True)):
        from_batch = running_mean is None or running_var is None
        branch, sample_mean, sample_m2, _ = conv(
            data, affine, relu, upsample, w, b, stride, rate, None, None, None, False, from_batch
        )
        if running_mean is None or running_var is None:
            mean, variance = _merge_samples(sample_mean, sample_m2, branch.shape[2] * branch.shape[3])
        else:
            mean, variance = running_mean[k], running_var[k]
        scale = _as_image(gamma[k] * torch.rsqrt(variance + eps[k]))
        normalised = (branch - _as_image(mean)).mul_(scale).add_(_as_image(beta[k]))
        total = normalised if total is None else total.add_(normalised)
        means.append(mean)
        variances.append(variance)
    assert total is not None
    return total.to(data[0].dtype), torch.stack(means), torch.stack(variances)


def conv_norm_sum_backward(
    grad: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: list[Tensor],
    stride: int,
    dilation: list[int],
    gamma: Tensor,
    eps: list[float],
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    needs_sources: bool,
    needs_weight: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the gradients of data, affine, weight, bias, gamma and beta; the branches are computed once more."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    wide = grad.to(mean.dtype)
    grad_beta = wide.sum(dim=(0, 2, 3))
    count = grad.numel() // grad.shape[1]
    sources: list[tuple[Tensor, Tensor]] = []
    grad_weights, grad_biases, grad_gammas = [], [], []
    for k, (w, b, rate) in enumerate(zip(weight, bias, dilation, strict=True)):
        branch = conv(data, affine, relu, upsample, w, b, stride, rate, None, None, None, False, False)[0]
        rstd = torch.rsqrt(variance[k] + eps[k])
        normalised = (branch - _as_image(mean[k])).mul_(_as_image(rstd))
        grad_gamma = (wide * normalised).sum(dim=(0, 2, 3))
        centered = wide
        if batch_statistics:
            centered = normalised.mul_(_as_image(-grad_gamma / count)).sub_(_as_image(grad_beta / count)).add_(wide)
        grad_branch = (centered * _as_image(gamma[k] * rstd)).to(grad.dtype)
        reads = (data, affine, relu, upsample)
        if needs_weight:
            grad_weights.append(weight_gradient(grad_branch, *reads, w, stride, rate))
        else:
            grad_weights.append(w.new_empty(0))
        if needs_sources:
            packed = pack_weight(w.contiguous(), [x.shape[1] for x in data], upsample, grad.dtype)
            gradients = input_gradients(grad_branch, *reads, packed, w.shape[2], stride, rate)
            sources = (
                [
                    (total[0].add_(more[0]), total[1].add_(more[1]))
                    for total, more in zip(sources, gradients, strict=True)
                ]
                if sources
                else gradients
            )
        grad_biases.append(grad_branch.to(mean.dtype).sum(dim=(0, 2, 3)).to(b.dtype))
        grad_gammas.append(grad_gamma)
    if not needs_sources:
        sources = [(x.new_empty(0), v.new_empty(0)) for x, v in zip(data, affine, strict=True)]
    return (
        [grad_data for grad_data, _ in sources],
        [grad_affine for _, grad_affine in sources],
        grad_weights,
        grad_biases,
        torch.stack(grad_gammas),
        grad_beta.repeat(len(weight), 1),
    )


def _merge_samples(mean: Tensor, m2: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (C) over samples of equal size, by Chan's formula."""
    merged = mean.mean(dim=0)
    return merged, m2.mean(dim=0) / pixels + (mean - merged).square().mean(dim=0)


def _as_image(vector: Tensor) -> Tensor:
    return vector[:, None, None]
