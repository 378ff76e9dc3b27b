"""The sum of normalised convolutions: each branch convolves the same sources and is normalised; only the sum is written."""

from __future__ import annotations

import torch
from torch import Tensor

from fastresunet.ops.source import accumulation_dtype
from fastresunet.ops.layout import as_image, as_pixels, channels_last, sum_pixels
from fastresunet.ops.torch_backend.read import read, read_backward
from fastresunet.ops.torch_backend.taps import convolve_backward, convolve_sources


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
    activated = [read(*source, weight[0].dtype) for source in zip(data, affine, relu, strict=True)]
    total: Tensor | None = None
    means, variances = [], []
    for k, (w, b, rate) in enumerate(zip(weight, bias, dilation, strict=True)):
        branch = convolve_sources(activated, w, b, stride, rate, upsample)
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
    return channels_last(total.to(weight[0].dtype)), torch.stack(means), torch.stack(variances)


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
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the gradients of data, affine, weight, bias, gamma and beta; the branches are computed once more."""
    grad = channels_last(grad)
    dtype = weight[0].dtype
    activated = [read(*source, dtype) for source in zip(data, affine, relu, strict=True)]
    grad_beta = sum_pixels(grad).sum(dim=0)
    pixel_count = grad.numel() // grad.shape[1]
    grad_activated: list[Tensor | None] = [None] * len(data)
    grad_weights, grad_biases, grad_gammas = [], [], []
    for k, (w, b, rate) in enumerate(zip(weight, bias, dilation, strict=True)):
        rstd = torch.rsqrt(variance[k] + eps[k])
        branch = convolve_sources(activated, w, b, stride, rate, upsample).to(mean.dtype)
        normalised = branch.sub_(as_image(mean[k])).mul_(as_image(rstd))
        grad_gamma = sum_pixels(grad * normalised).sum(dim=0)
        scale = gamma[k] * rstd
        if batch_statistics:
            # BatchNorm's backward: the mean and the part along the normalised values carry no gradient.
            through_mean, through_variance = grad_beta / pixel_count, grad_gamma / pixel_count
            grad_branch = normalised.mul_(as_image(-through_variance)).sub_(as_image(through_mean)).add_(grad)
            grad_branch = grad_branch.mul_(as_image(scale)).to(dtype)
        else:
            grad_branch = (grad * as_image(scale)).to(dtype)
        sections = w.split([h.shape[1] for h in activated], dim=1)
        grad_sections = []
        for i, (h, section, up) in enumerate(zip(activated, sections, upsample, strict=True)):
            grad_h, grad_section = convolve_backward(grad_branch, h, section, stride, rate, up, (needs_sources, True))
            grad_sections.append(grad_section)
            so_far = grad_activated[i]
            grad_activated[i] = grad_h if so_far is None else so_far.add_(grad_h)
        grad_weights.append(torch.cat(grad_sections, dim=1))
        grad_biases.append(sum_pixels(grad_branch).sum(dim=0).to(b.dtype))
        grad_gammas.append(grad_gamma)
    grad_data, grad_affine = [], []
    for i, (x, vectors, positive) in enumerate(zip(data, affine, relu, strict=True)):
        grad_h = grad_activated[i]
        assert grad_h is not None
        if needs_sources:
            grad_x, grad_vectors = read_backward(grad_h, x, vectors, positive, activated[i])
        else:
            grad_x, grad_vectors = x.new_empty(0), vectors.new_empty(0)
        grad_data.append(grad_x)
        grad_affine.append(grad_vectors)
    return grad_data, grad_affine, grad_weights, grad_biases, torch.stack(grad_gammas), grad_beta.expand_as(gamma).clone()


def _batch_statistics(branch: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel over samples and pixels."""
    pixels = as_pixels(branch).flatten(0, 1).to(accumulation_dtype(branch.dtype))
    mean = pixels.mean(dim=0)
    return mean, (pixels - mean).square_().mean(dim=0)
