"""The sum of normalised convolutions: every branch reads the same sources, only the sum is written."""

from __future__ import annotations

import torch
from torch import Tensor

from fastresunet.ops.layout import as_image, as_pixels, channels_last, sum_pixels
from fastresunet.ops.source import accumulation_dtype
from fastresunet.ops.torch_backend.read import no_gradients, read_sources, read_sources_backward
from fastresunet.ops.torch_backend.taps import convolve_sources, convolve_sources_backward


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
    dtype = data[0].dtype
    activated = read_sources(data, affine, relu, dtype)
    total: Tensor | None = None
    means, variances = [], []
    for k, (w, b, rate) in enumerate(zip(weight, bias, dilation, strict=True)):
        branch = convolve_sources(activated, w.to(dtype), b.to(dtype), stride, rate, upsample)
        if running_mean is None or running_var is None:
            mean, variance = _batch_statistics(branch)
        else:
            mean, variance = running_mean[k], running_var[k]
        scale = gamma[k] * torch.rsqrt(variance + eps[k])
        normalised = torch.addcmul(as_image(beta[k] - mean * scale), branch, as_image(scale))
        total = normalised if total is None else total.add_(normalised)
        means.append(mean)
        variances.append(variance)
    assert total is not None
    if running_mean is not None:
        return channels_last(total.to(dtype)), gamma.new_empty(0), gamma.new_empty(0)
    return channels_last(total.to(dtype)), torch.stack(means), torch.stack(variances)


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
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the gradients of data, affine, weight, bias (branches, C) and of gamma and beta (2, branches, C)."""
    grad = channels_last(grad)
    dtype = data[0].dtype
    activated = read_sources(data, affine, relu, dtype)
    grad_beta = sum_pixels(grad).sum(dim=0)
    totals: list[Tensor] = []
    grad_weights, grad_biases, grad_gammas = [], [], []
    for k, (w, b, rate) in enumerate(zip(weight, bias, dilation, strict=True)):
        branch = convolve_sources(activated, w.to(dtype), b.to(dtype), stride, rate, upsample)
        grad_branch, grad_gamma = _normalization_backward(
            grad, grad_beta, branch, gamma[k], mean[k], torch.rsqrt(variance[k] + eps[k]), batch_statistics
        )
        needs = (needs_sources, needs_weight)
        grads, grad_weight = convolve_sources_backward(
            grad_branch, activated, w.to(dtype), stride, rate, upsample, needs
        )
        totals = [total.add_(more) for total, more in zip(totals, grads, strict=True)] if totals else grads
        grad_weights.append(grad_weight.to(w.dtype))
        # In front of a BatchNorm with batch statistics a bias has no effect.
        scale = gamma[k] * torch.rsqrt(variance[k] + eps[k])
        grad_biases.append(torch.zeros_like(b) if batch_statistics else (scale * grad_beta).to(b.dtype))
        grad_gammas.append(grad_gamma)
    if needs_sources:
        grad_data, grad_affine = read_sources_backward(totals, data, affine, relu, activated)
    else:
        grad_data, grad_affine = no_gradients(data), no_gradients(affine)
    vectors = torch.stack([torch.stack(grad_gammas), grad_beta.expand(len(weight), -1)])
    return grad_data, grad_affine, grad_weights, torch.stack(grad_biases), vectors


def branch_gradient(
    grad: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor,
    stride: int,
    dilation: int,
    gamma: Tensor,
    eps: float,
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of a single branch: of its raw result, of weight and bias, and of gamma and beta (2, C).

    Arguments are those of ``conv_norm_sum_backward``, for one branch. The gradients of the sources are left to
    ``conv_gradients``.
    """
    grad, dtype = channels_last(grad), data[0].dtype
    activated = read_sources(data, affine, relu, dtype)
    branch = convolve_sources(activated, weight.to(dtype), bias.to(dtype), stride, dilation, upsample)
    grad_beta, rstd = sum_pixels(grad).sum(dim=0), torch.rsqrt(variance + eps)
    raw, grad_gamma = _normalization_backward(grad, grad_beta, branch, gamma, mean, rstd, batch_statistics)
    needs = (False, needs_weight)
    sources = (activated, weight.to(dtype), stride, dilation, upsample, needs)
    grad_weight = convolve_sources_backward(raw, *sources)[1].to(weight.dtype)
    grad_bias = torch.zeros_like(bias) if batch_statistics else (gamma * rstd * grad_beta).to(bias.dtype)
    return raw, grad_weight, grad_bias, torch.stack([grad_gamma, grad_beta])


def _normalization_backward(
    grad: Tensor, grad_beta: Tensor, branch: Tensor, gamma: Tensor, mean: Tensor, rstd: Tensor, batch_statistics: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a branch before its BatchNorm (``branch`` is overwritten) and of gamma.

    With y the normalised branch over P values a channel: ``dgamma = sum dY y``, ``dbeta = sum dY`` and
    ``dv = gamma rstd (dY - dbeta / P - y dgamma / P)``; the last two terms are 0 for running statistics.
    """
    normalised = branch.to(mean.dtype).sub_(as_image(mean)).mul_(as_image(rstd))
    grad_gamma = sum_pixels(grad * normalised).sum(dim=0)
    scale = as_image(gamma * rstd)
    if not batch_statistics:
        return (grad * scale).to(branch.dtype), grad_gamma
    count = grad.numel() // grad.shape[1]
    grad_branch = normalised.mul_(as_image(-grad_gamma / count)).sub_(as_image(grad_beta / count)).add_(grad)
    return grad_branch.mul_(scale).to(branch.dtype), grad_gamma


def _batch_statistics(branch: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel over samples and pixels."""
    pixels = as_pixels(branch).flatten(0, 1).to(accumulation_dtype(branch.dtype))
    mean = pixels.mean(dim=0)
    return mean, (pixels - mean).square_().mean(dim=0)
