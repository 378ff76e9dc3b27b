"""Reading a source: affine and ReLU, recomputed in the backward pass instead of kept."""

from __future__ import annotations

import torch
from torch import Tensor

from fastresunet.ops.layout import as_image, channels_last, sum_pixels


def read(data: Tensor, affine: Tensor, relu: bool, dtype: torch.dtype) -> Tensor:
    """Return ``relu((data - center) * scale + shift)`` in ``dtype``; an ``affine`` of one is a scale alone."""
    if len(affine) < 3:
        h = data if affine.numel() == 0 else data * as_image(affine[0])
        h = h.relu() if relu else h
    else:
        center, scale, shift = affine
        h = data - as_image(center)
        torch.addcmul(as_image(shift), h, as_image(scale), out=h)
        if relu:
            h.relu_()
    return channels_last(h.to(dtype))


def read_backward(grad: Tensor, data: Tensor, affine: Tensor, relu: bool, activated: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``data`` and ``affine``.

    With ``z`` the value before the ReLU and ``dz = grad * [z > 0]``: ``ddata = dz * scale``, ``dshift = sum dz``,
    ``dscale = sum dz * (data - center)``, ``dcenter = -scale * dshift``.

    Args:
        grad: gradient of the activated values; overwritten.
        data: raw features (N, C, H, W).
        affine: (3, N, C), (1, N, C) for a scale alone, or empty for the identity.
        relu: whether the ReLU was applied.
        activated: result of ``read``.
    """
    if relu:
        grad = torch.ops.aten.threshold_backward.grad_input(grad, activated, 0, grad_input=grad)
    if affine.numel() == 0:
        return grad.to(data.dtype), affine.new_empty(0)
    grad = grad.to(affine.dtype)
    if len(affine) == 1:
        grad_scale = sum_pixels(data * grad)
        return grad.mul_(as_image(affine[0])).to(data.dtype), grad_scale[None]
    center, scale, _ = affine
    grad_shift = sum_pixels(grad)
    grad_scale = sum_pixels((data - as_image(center)).mul_(grad))
    grad_data = grad.mul_(as_image(scale)).to(data.dtype)
    return grad_data, torch.stack([-scale * grad_shift, grad_scale, grad_shift])


def read_sources(data: list[Tensor], affine: list[Tensor], relu: list[bool], dtype: torch.dtype) -> list[Tensor]:
    """Read every source, see ``read``."""
    return [read(*source, dtype) for source in zip(data, affine, relu, strict=True)]


def read_sources_backward(
    grads: list[Tensor], data: list[Tensor], affine: list[Tensor], relu: list[bool], activated: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradients of data and affine of every source, see ``read_backward``."""
    gradients = [read_backward(*source) for source in zip(grads, data, affine, relu, activated, strict=True)]
    return [grad_data for grad_data, _ in gradients], [grad_affine for _, grad_affine in gradients]


def no_gradients(tensors: list[Tensor]) -> list[Tensor]:
    """Return an empty tensor for each of ``tensors``: how an operation says that a gradient was not wanted."""
    return [tensor.new_empty(0) for tensor in tensors]
