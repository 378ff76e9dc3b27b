"""BatchNorm over one or two feature maps as centre, scale and shift of every sample and channel; and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def batch_affine(
    mean: Tensor | None,
    m2: Tensor | None,
    gate: Tensor | None,
    pixels: int,
    mean2: Tensor | None,
    m2_2: Tensor | None,
    gate2: Tensor | None,
    pixels2: int,
    samples: int,
    channels: int,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the affine of either map (the second one empty if there is none), and the mean and variance they are from.

    Arguments are those of the operation.
    """
    gamma, beta = gamma.to(dtype), beta.to(dtype)
    sections, results, merged = [channels, gamma.shape[0] - channels], [], []
    maps = ((mean, m2, gate, pixels), (mean2, m2_2, gate2, pixels2))
    running = None
    if running_mean is not None and running_var is not None:
        running = torch.stack([running_mean.to(dtype), running_var.to(dtype)]).split(sections, dim=1)
    for k, (center, squares, factor, count) in enumerate(maps):
        if sections[k] == 0:
            results.append(gamma.new_empty(0))
            continue
        if running is not None:
            mu, var = running[k]
            center = scaled_center = mu.new_zeros(samples, sections[k])
        else:
            assert center is not None
            assert squares is not None
            scaled_center = center if factor is None else center * factor
            spread = squares if factor is None else squares * factor.square()
            mu = scaled_center.mean(dim=0)
            var = spread.mean(dim=0) / count + (scaled_center - mu).square().mean(dim=0)
        slope = gamma.split(sections)[k] * torch.rsqrt(var + eps)
        scale = slope.expand_as(center) if factor is None else slope * factor
        results.append(torch.stack([center, scale, beta.split(sections)[k] + (scaled_center - mu) * slope]))
        merged.append(torch.stack([mu, var]))
    mu, var = torch.cat(merged, dim=1)
    return results[0], results[1], mu.clone(), var.clone()


def batch_affine_backward(
    grad_affine: Tensor,
    grad_affine2: Tensor,
    mean: Tensor | None,
    m2: Tensor | None,
    gate: Tensor | None,
    pixels: int,
    mean2: Tensor | None,
    m2_2: Tensor | None,
    gate2: Tensor | None,
    pixels2: int,
    samples: int,
    channels: int,
    gamma: Tensor,
    mu: Tensor,
    var: Tensor,
    eps: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return ``statistics`` and the gradient of the gate of either map (empty where there is none), of gamma and beta.

    ``statistics`` are the mean and the gradients of M2 and mean (3, N, C), as the gradient of a convolution takes them.

    With a = gate center and slope = gamma rstd, ``scale = slope gate`` and ``shift = beta + (a - mu) slope``. For batch
    statistics mu and the variance depend on mean, M2 and gate; for running statistics a is 0. What is read does not
    depend on the centre: it is a constant that happens to be the mean.
    """
    sections = [channels, gamma.shape[0] - channels]
    maps = ((grad_affine, mean, m2, gate, pixels), (grad_affine2, mean2, m2_2, gate2, pixels2))
    nothing = mu.new_empty(0)
    results: list[Tensor] = []
    grad_gammas, grad_betas = [], []
    for k, (grad, center, squares, factor, count) in enumerate(maps):
        if sections[k] == 0:
            results += [nothing] * 2
            continue
        section_mu, section_var = mu.split(sections)[k], var.split(sections)[k]
        rstd = torch.rsqrt(section_var + eps)
        slope = gamma.split(sections)[k].to(mu.dtype) * rstd
        _, grad_scale, grad_shift = grad
        ones = torch.ones_like(grad_scale)
        gain = ones if factor is None else factor
        deviation = -section_mu.expand_as(ones)
        if batch_statistics:
            assert center is not None
            deviation = center * gain - section_mu
        grad_slope = (grad_scale * gain + grad_shift * deviation).sum(dim=0)
        grad_gammas.append(grad_slope * rstd)
        grad_betas.append(grad_shift.sum(dim=0))
        grad_gate = grad_scale * slope
        statistics = nothing
        if batch_statistics:
            assert center is not None
            assert squares is not None
            grad_var = -0.5 * grad_slope * slope * rstd.square()
            grad_statistics = 2 * grad_var * deviation / samples - slope * grad_shift.mean(dim=0)
            grad_m2 = grad_var * gain.square() / (samples * count)
            grad_gate = grad_gate + 2 * grad_var * gain * squares / (samples * count)
            grad_gate = grad_gate + (grad_statistics + slope * grad_shift) * center
            statistics = torch.stack([center, grad_m2.expand_as(center), grad_statistics * gain])
        results += [statistics, nothing if factor is None else grad_gate]
    grad_gamma, grad_beta = torch.cat(grad_gammas).to(gamma.dtype), torch.cat(grad_betas).to(gamma.dtype)
    first, second, third, fourth = results
    return first, second, third, fourth, grad_gamma, grad_beta
