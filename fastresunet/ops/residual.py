"""The pre-activation residual block (ResUNet, Zhang et al. 2018) with squeeze-and-excitation as one operation.

    u = conv3(relu(bn(x))),  v = conv1(x),  y = conv3(relu(bn(u))) + bn(v),  gate = sigmoid(W2 relu(W1 mean(y)))

Its parts are the operations of this package. Together they leave out what each would have to write for the next: both
readers of x give one gradient, and the statistics of u never leave the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastresunet.ops.backend import Backend, compute
from fastresunet.ops.checks import check_maps
from fastresunet.ops.layout import empty_image
from fastresunet.ops.library import differentiable, differentiable_once, operand_dtype, register
from fastresunet.ops.maps import NO_FINISH, SCHEMA, Maps, Normalization, output_statistics, statistics_gradients
from fastresunet.ops.source import accumulation_dtype, convolution_size


class ResidualOutput(NamedTuple):
    """Result of ``residual_block``.

    Attributes:
        data: (N, C, H, W), channels-last.
        mean: of data (N, C).
        m2: of data (N, C).
        gate: squeeze-and-excitation scale (N, C).
        batch: mean and biased variance that each of the three BatchNorms normalised with, in the order of
            ``ResidualParameters``; not differentiable, and possibly empty where those are running statistics.
    """

    data: Tensor
    mean: Tensor
    m2: Tensor
    gate: Tensor
    batch: list[tuple[Tensor, Tensor]]


class ResidualParameters(NamedTuple):
    """Parameters of a block; a norm is gamma, beta, running mean and variance, the last two empty for the batch's.

    Attributes:
        norm_in: of x; empty tensors: x is read as it is, without ReLU.
        conv_in: weight (C, C_in, 3, 3) and bias.
        norm: of u.
        conv: weight (C, C, 3, 3) and bias.
        norm_side: of v.
        conv_side: weight (C, C_in, 1, 1) and bias.
        excitation: W1 (hidden, C) and W2 (C, hidden).
    """

    norm_in: Sequence[Tensor]
    conv_in: Sequence[Tensor]
    norm: Sequence[Tensor]
    conv: Sequence[Tensor]
    norm_side: Sequence[Tensor]
    conv_side: Sequence[Tensor]
    excitation: Sequence[Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> ResidualParameters:
        """Group parameters that stand one after another."""
        bounds = [0, 4, 6, 10, 12, 16, 18, 20]
        return cls(*(tensors[first:end] for first, end in pairwise(bounds)))

    def norms(self, eps: Sequence[float]) -> list[Normalization]:
        """Return the three BatchNorms."""
        return [Normalization.of(*norm) for norm in zip((self.norm_in, self.norm, self.norm_side), eps, strict=True)]


def residual_block(
    maps: Maps, parameters: ResidualParameters, eps: Sequence[float], stride: int = 1, backend: Backend = "auto"
) -> ResidualOutput:
    """Compute a residual block on the concatenation of one or two feature maps.

    Args:
        maps: x; with statistics where the first norm uses the batch's.
        parameters: of the block.
        eps: of the three norms.
        stride: 1 or 2, of the first convolution and the shortcut.
        backend: what computes it.

    Raises:
        TypeError: without autocast, maps and weights have different dtypes.
        ValueError: shapes or devices do not fit; the message names what was given and what is expected.
    """
    check_maps(maps, parameters.conv_in[0], parameters.norm_in[0], stride)
    maps = maps.cast(operand_dtype(maps.data[0], parameters.conv_in[0]))
    flat = [tensor for group in parameters for tensor in group]
    results = _residual_block(*maps, flat, list(eps), stride, backend)
    data, mean, m2, gate, *batch = results[:10]
    return ResidualOutput(data, mean, m2, gate, list(zip(batch[::2], batch[1::2], strict=True)))


def _forward(
    data: list[Tensor],
    mean: list[Tensor],
    m2: list[Tensor],
    gate: list[Tensor],
    upsample: list[bool],
    parameters: list[Tensor],
    eps: list[float],
    stride: int,
    backend: Backend,
) -> tuple[Tensor, ...]:
    p, x = ResidualParameters.of(parameters), Maps(data, mean, m2, gate, upsample)
    norm_in, norm, norm_side = p.norms(eps)
    dtype = accumulation_dtype(data[0].dtype)
    nothing = data[0].new_empty(0, dtype=dtype)
    affine, mu_in, var_in = x.gates, nothing, nothing.clone()
    activates = norm_in.gamma.numel() > 0
    if activates:
        affine, mu_in, var_in = x.normalized(backend, norm_in)
    statistics = norm.uses_batch
    first = compute(backend, "conv", *x.read(affine, activates), *p.conv_in, stride, 1, *NO_FINISH, statistics)
    hidden, hidden_mean, hidden_m2, _ = first
    u = Maps.single(hidden, hidden_mean, hidden_m2)
    (hidden_affine,), mu, var = u.normalized(backend, norm)
    side, mu_side, var_side = compute(
        backend,
        "conv_norm_sum",
        *x.read(x.gates, False),
        [p.conv_side[0]],
        [p.conv_side[1]],
        stride,
        [1],
        norm_side.gamma.to(dtype)[None],
        norm_side.beta.to(dtype)[None],
        [norm_side.eps],
        *(None if vector is None else vector.to(dtype)[None] for vector in norm_side[3:]),
    )
    second = compute(backend, "conv", *u.read([hidden_affine], True), *p.conv, 1, 1, side, *NO_FINISH[1:], True)
    output, output_mean, output_m2, _ = second
    excited = compute(backend, "excitation", output_mean, *p.excitation)
    batch = (mu_in, var_in, mu, var, mu_side.flatten(), var_side.flatten())
    affines = [*affine, nothing.clone()][:2] if activates else [nothing.clone(), nothing.clone()]
    return output, output_mean, output_m2, excited, *batch, hidden, hidden_mean, hidden_m2, *affines, hidden_affine


def _shapes(
    data: list[Tensor],
    mean: list[Tensor],
    m2: list[Tensor],
    gate: list[Tensor],
    upsample: list[bool],
    parameters: list[Tensor],
    eps: list[float],
    stride: int,
    backend: str,
) -> tuple[Tensor, ...]:
    p = ResidualParameters.of(parameters)
    samples, channels, inputs = data[0].shape[0], p.conv_in[0].shape[0], p.norm_in[0].shape[0]
    height, width = (convolution_size(size, upsample[0], stride) for size in data[0].shape[2:])
    dtype = accumulation_dtype(data[0].dtype)

    def vectors(*shape: int) -> Tensor:
        return data[0].new_empty(shape, dtype=dtype)

    side = 0 if p.norm_side[2].numel() else channels
    statistics = (0,) if p.norm[2].numel() else (samples, channels)
    affines = [vectors(3, samples, x.shape[1]) if inputs else vectors(0) for x in data]
    return (
        empty_image(data[0], channels, height, width),
        *(vectors(samples, channels) for _ in range(3)),
        *(vectors(count) for count in (inputs, inputs, channels, channels, side, side)),
        empty_image(data[0], channels, height, width),
        vectors(*statistics),
        vectors(*statistics),
        *[*affines, vectors(0)][:2],
        vectors(3, samples, channels),
    )


_residual_block = register(
    f"residual_block({SCHEMA}, Tensor[] parameters, float[] eps, int stride, str backend) -> (Tensor output, "
    "Tensor mean, Tensor m2, Tensor gate, Tensor mu_in, Tensor var_in, Tensor mu, Tensor var, Tensor mu_side, "
    "Tensor var_side, Tensor hidden, Tensor hidden_mean, Tensor hidden_m2, Tensor affine, Tensor affine2, "
    "Tensor hidden_affine)",
    _forward,
    _shapes,
)


def _gradients(
    grad: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    grad_gate: Tensor | None,
    data: list[Tensor],
    mean: list[Tensor],
    m2: list[Tensor],
    gate: list[Tensor],
    upsample: list[bool],
    parameters: list[Tensor],
    results: list[Tensor],
    eps: list[float],
    stride: int,
    needs_sources: bool,
    needs_weights: list[bool],
    backend: Backend,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """Return the gradients of data, of statistics and gates, of ``_TRAINED`` parameters, of the side's norm (2, C).

    ``results`` are those of the forward pass that ``_KEPT`` names. Statistics as in ``Maps.normalized_backward``; empty
    tensors stand for what has no gradient.
    """
    p, x = ResidualParameters.of(parameters), Maps(data, mean, m2, gate, upsample)
    norm_in, norm, norm_side = p.norms(eps)
    output, output_mean, excited, mu_in, var_in, mu, var, mu_side, var_side = results[:9]
    hidden, hidden_mean, hidden_m2, *affine, hidden_affine = results[9:]
    affine = [vectors for vectors in affine if vectors.numel()]
    grad_excitation = _empty(excited, 2)
    if grad_gate is not None:
        squeezed, *grad_excitation = compute(
            backend, "excitation_backward", grad_gate, excited, output_mean, *p.excitation
        )
        grad_mean = squeezed if grad_mean is None else grad_mean + squeezed

    u = Maps.single(hidden, hidden_mean, hidden_m2)
    total, _, _, (grad_hidden,), grad_affine, *grad_conv, _ = compute(
        backend,
        "conv_gradients",
        grad,
        output_statistics(output_mean, grad_mean, grad_m2),
        output,
        *_empty(output, 1),
        *u.read([hidden_affine], True),
        p.conv[0],
        1,
        1,
        *NO_FINISH[1:],
        True,
        True,
        needs_weights[1],
    )
    (statistics,), _, *grad_norm = u.normalized_backward(backend, norm, grad_affine, mu, var)
    if norm_side.running_mean is not None and norm_side.running_var is not None:
        mu_side, var_side = norm_side.running_mean, norm_side.running_var
    side, *grad_conv_side, grad_norm_side = compute(
        backend,
        "branch_gradient",
        total,
        *x.read(x.gates, False),
        *p.conv_side,
        stride,
        1,
        norm_side.gamma.to(excited.dtype),
        norm_side.eps,
        mu_side.to(excited.dtype),
        var_side.to(excited.dtype),
        norm_side.uses_batch,
        needs_weights[2],
    )
    _, _, _, grad_data, grad_affine, *grad_conv_in, grad_scale = compute(
        backend,
        "conv_gradients",
        grad_hidden,
        statistics if norm.uses_batch else None,
        hidden,
        *_empty(hidden, 1),
        *x.read(affine or x.gates, bool(affine)),
        p.conv_in[0],
        stride,
        1,
        *NO_FINISH[1:],
        False,
        needs_sources,
        needs_weights[0],
        None,
        side,
        p.conv_side[0],
        x.gates,
    )
    grad_statistics, grad_norm_in, grad_gates = (
        _empty(excited, len(data)),
        _empty(excited, 2),
        _empty(excited, len(data)),
    )
    if needs_sources:
        more = grad_affine
        if affine:
            grad_statistics, more, *grad_norm_in = x.normalized_backward(backend, norm_in, grad_affine, mu_in, var_in)
        grad_gates = [a[0] + b.view_as(a[0]) if a.numel() else a for a, b in zip(grad_scale, more, strict=True)]
    trained = [*grad_norm_in, *grad_conv_in, *grad_norm, *grad_conv, *grad_conv_side, *grad_excitation]
    return grad_data, grad_statistics, grad_gates, trained, grad_norm_side


def _empty(like: Tensor, count: int) -> list[Tensor]:
    return [like.new_empty(0) for _ in range(count)]


# Which results of the forward pass are kept, and which parameters have a gradient of their own.
_KEPT = (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_TRAINED = (0, 1, 4, 5, 6, 7, 10, 11, 16, 17, 18, 19)
_NORM_SIDE = (12, 13)


def _gradient_shapes(
    grad: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    grad_gate: Tensor | None,
    data: list[Tensor],
    mean: list[Tensor],
    m2: list[Tensor],
    gate: list[Tensor],
    upsample: list[bool],
    parameters: list[Tensor],
    results: list[Tensor],
    eps: list[float],
    stride: int,
    needs_sources: bool,
    needs_weights: list[bool],
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    excited, has_norm = results[2], parameters[0].numel() > 0
    uses_batch = has_norm and parameters[2].numel() == 0
    needed = [needs_sources and has_norm] * 2 + [needs_weights[0]] * 2 + [True] * 2 + [needs_weights[1]] * 2
    needed += [needs_weights[2], True] + [grad_gate is not None] * 2
    trained = [
        parameters[k].new_empty(parameters[k].shape if wanted else 0)
        for k, wanted in zip(_TRAINED, needed, strict=True)
    ]
    return (
        [torch.empty_like(x, memory_format=torch.channels_last) if needs_sources else x.new_empty(0) for x in data],
        [excited.new_empty((3, *x.shape[:2]) if needs_sources and uses_batch else 0) for x in data],
        [excited.new_empty(g.shape if needs_sources else 0) for g in gate],
        trained,
        excited.new_empty((2, excited.shape[1])),
    )


_residual_block_backward = register(
    f"residual_block_backward(Tensor grad, Tensor? grad_mean, Tensor? grad_m2, Tensor? grad_gate, {SCHEMA}, "
    "Tensor[] parameters, Tensor[] results, float[] eps, int stride, bool needs_sources, bool[] needs_weights, "
    "str backend) -> (Tensor[] data, Tensor[] statistics, Tensor[] gates, Tensor[] parameters, Tensor norm_side)",
    _gradients,
    _gradient_shapes,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *maps, upsample, parameters, eps, stride, backend = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[4:])
    kept = [output[k] for k in _KEPT]
    ctx.save_for_backward(*(tensor for group in (*maps, parameters, kept) for tensor in group))
    ctx.options = (upsample, eps, stride, backend)


def _backward(
    ctx: Any,
    grad: Tensor | None,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    grad_gate: Tensor | None,
    *_: None,
) -> tuple[Any, ...]:
    upsample, eps, stride, backend = ctx.options
    saved, count = list(ctx.saved_tensors), len(upsample)
    maps = [saved[k * count : (k + 1) * count] for k in range(4)]
    parameters, results = saved[4 * count : -len(_KEPT)], saved[-len(_KEPT) :]
    grad = torch.zeros_like(results[0]) if grad is None else grad
    *needed_maps, _, needed, _, _, _ = ctx.needed
    needs_sources = any(map(any, needed_maps)) or needed[0] or needed[1]
    needs_weights = [needed[first] or needed[first + 1] for first in (4, 10, 16)]
    grad_data, statistics, grad_gates, trained, grad_norm_side = _residual_block_backward(
        grad,
        grad_mean,
        grad_m2,
        grad_gate,
        *maps,
        upsample,
        parameters,
        results,
        eps,
        stride,
        needs_sources,
        needs_weights,
        backend,
    )
    grad_parameters: list[Tensor | None] = [None] * len(parameters)
    for k, gradient in (*zip(_TRAINED, trained, strict=True), *zip(_NORM_SIDE, grad_norm_side, strict=True)):
        grad_parameters[k] = gradient.to(parameters[k].dtype) if gradient.numel() else None
    means, squares = statistics_gradients(statistics)
    present = [x if x.numel() else None for x in grad_data], [x if x.numel() else None for x in grad_gates]
    return present[0], means, squares, present[1], None, grad_parameters, None, None, None


differentiable("residual_block", _setup_context, _backward)
differentiable_once("residual_block_backward")
