"""Argument checks of the fused operations: every message names what was given and what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastresunet.ops.branch import Branch
from fastresunet.ops.source import Source, accumulation_dtype

if TYPE_CHECKING:
    from fastresunet.ops.maps import Maps


def check_sources(sources: Sequence[Source], weight: Tensor, stride: int, dilation: int) -> None:
    """Raise unless ``sources`` can be concatenated along channels and convolved with ``weight``."""
    if not sources:
        raise ValueError("a convolution needs at least one source, got none")
    first = sources[0]
    for position, source in enumerate(sources):
        name, data, affine = f"sources[{position}]", source.data, source.affine
        if data.ndim != 4:
            raise ValueError(f"{name}.data must have shape (N, C, H, W), got {tuple(data.shape)}")
        if not data.is_floating_point():
            raise TypeError(f"{name}.data must be floating point, got {data.dtype}")
        if (data.shape[0], source.height, source.width) != (first.data.shape[0], first.height, first.width):
            raise ValueError(
                f"{name} is read as {data.shape[0]} x {source.height} x {source.width} (samples, rows, columns), "
                f"expected {first.data.shape[0]} x {first.height} x {first.width} as sources[0]"
            )
        if affine is not None and (affine.shape[1:] != data.shape[:2] or len(affine) not in (1, 3)):
            shapes = " or ".join(str((vectors, *data.shape[:2])) for vectors in (1, 3))
            raise ValueError(f"{name}.affine must have shape {shapes}, got {tuple(affine.shape)}")
        if affine is not None and affine.dtype != accumulation_dtype(data.dtype):
            raise TypeError(f"{name}.affine must be {accumulation_dtype(data.dtype)}, got {affine.dtype}")
        if source.upsample and (stride, dilation) != (1, 1):
            raise ValueError(f"{name} is upsampled: stride and dilation must be 1, got {stride} and {dilation}")
        check_devices(weight, {f"{name}.data": data, f"{name}.affine": affine})
        check_first_order(data)
    channels = sum(source.data.shape[1] for source in sources)
    if weight.ndim != 4 or weight.shape[1] != channels or tuple(weight.shape[2:]) not in ((1, 1), (3, 3)):
        raise ValueError(
            f"weight must have shape (C, {channels}, 1, 1) or (C, {channels}, 3, 3), got {tuple(weight.shape)}"
        )
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2, got {stride}")
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, got {dilation}")


def check_maps(maps: Maps, weight: Tensor, gamma: Tensor, stride: int) -> None:
    """Raise unless ``maps`` can be concatenated, normalised with ``gamma`` unless that is empty, and convolved."""
    sources = [Source(data, None, False, up) for data, up in zip(maps.data, maps.upsample, strict=True)]
    channels = sum(data.shape[1] for data in maps.data)
    if gamma.numel() and gamma.shape != (channels,):
        raise ValueError(f"expected features of {gamma.shape[0]} channels, got {channels}")
    check_sources(sources, weight, stride, 1)


def check_convolution(
    sources: Sequence[Source],
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    dilation: int,
    residual: Tensor | None,
    gate: Tensor | None,
    gate_scale: Tensor | None,
    pool: bool,
) -> None:
    """Raise a ``ValueError`` or ``TypeError`` for the first argument of ``conv`` that does not fit."""
    check_sources(sources, weight, stride, dilation)
    check_devices(weight, {"bias": bias, "residual": residual, "gate": gate, "gate_scale": gate_scale})
    channels, source = weight.shape[0], sources[0]
    samples, height, width = source.data.shape[0], (source.height - 1) // stride + 1, (source.width - 1) // stride + 1
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias must have shape {(channels,)}, got {tuple(bias.shape)}")
    for name, image in (("residual", residual), ("gate", gate)):
        if image is not None and image.shape != (samples, channels, height, width):
            raise ValueError(f"{name} must have shape {(samples, channels, height, width)}, got {tuple(image.shape)}")
    if gate_scale is not None and (gate is None or gate_scale.shape != (samples, channels)):
        expected = "None without a gate" if gate is None else f"of shape {(samples, channels)}"
        raise ValueError(f"gate_scale must be {expected}, got shape {tuple(gate_scale.shape)}")
    if sum([pool, residual is not None, gate is not None]) > 1:
        raise ValueError("only one of pool, residual and gate can be given")
    if pool and (height < 2 or width < 2):
        raise ValueError(f"pool needs at least 2 x 2 pixels, got {height} x {width}")


def check_branches(sources: Sequence[Source], branches: Sequence[Branch], stride: int) -> None:
    """Raise a ``ValueError`` or ``TypeError`` for the first argument of ``conv_norm_sum`` that does not fit."""
    if not branches:
        raise ValueError("a sum of normalised convolutions needs at least one branch, got none")
    channels = branches[0].weight.shape[0]
    for position, branch in enumerate(branches):
        check_sources(sources, branch.weight, stride, branch.dilation)
        vectors = {name: getattr(branch, name) for name in ("bias", "gamma", "beta", "running_mean", "running_var")}
        check_devices(branch.weight, {f"branches[{position}].{name}": vector for name, vector in vectors.items()})
        if branch.weight.shape[0] != channels:
            raise ValueError(
                f"branches[{position}] has {branch.weight.shape[0]} output channels, branches[0] {channels}"
            )
        if branch.weight.dtype != branches[0].weight.dtype:
            expected = f"{branches[0].weight.dtype} as branches[0]"
            raise TypeError(f"branches[{position}].weight is {branch.weight.dtype}, expected {expected}")
        for name, vector in vectors.items():
            if vector is not None and vector.shape != (channels,):
                raise ValueError(
                    f"branches[{position}].{name} must have shape {(channels,)}, got {tuple(vector.shape)}"
                )
    means, variances = (
        sum(getattr(branch, name) is not None for branch in branches) for name in ("running_mean", "running_var")
    )
    if not means == variances in (0, len(branches)):
        raise ValueError(
            f"branches must all use batch statistics or all running statistics; {means} of {len(branches)} have a "
            f"running mean and {variances} a running variance"
        )


def check_devices(weight: Tensor, tensors: Mapping[str, Tensor | None]) -> None:
    """Raise a ``ValueError`` for the first tensor that is not on the weight's device."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != weight.device:
            raise ValueError(f"{name} is on {tensor.device}, the weight on {weight.device}; move them to one device")


def check_first_order(data: Tensor) -> None:
    """Raise a ``NotImplementedError`` where forward-mode differentiation would silently give no derivative."""
    if not torch.compiler.is_compiling() and forward_ad.unpack_dual(data).tangent is not None:
        raise NotImplementedError("fused operations have no forward-mode derivative; use fastresunet.ResUNetPP for it")
