"""The attention gate of ResUNet++ as one operation.

    s = max2(conv3(relu(bn(g)))) + conv3(relu(bn(x))),  y = x conv3(relu(bn(s)))

Pooling, sum and product are done as the convolutions write; both readers of x give one gradient, and the statistics of
s never leave the gate.
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
from fastresunet.ops.source import accumulation_dtype


class AttentionOutput(NamedTuple):
    """Result of ``attention_gate``.

    Attributes:
        data: (N, C, H, W), channels-last.
        mean: of data (N, C), empty if not asked for.
        m2: of data (N, C), empty if not asked for.
        batch: mean and variance that each of the three BatchNorms normalised with, in the order of
            ``AttentionParameters``; not differentiable.
    """

    data: Tensor
    mean: Tensor
    m2: Tensor
    batch: list[tuple[Tensor, Tensor]]


class AttentionParameters(NamedTuple):
    """Parameters of a gate; a norm is gamma, beta, running mean and variance, the last two empty for the batch's.

    Attributes:
        norm_skip: of g.
        conv_skip: weight (C, C_g, 3, 3) and bias.
        norm_in: of x.
        conv_in: weight (C, C, 3, 3) and bias.
        norm: of s.
        conv: weight (C, C, 3, 3) and bias.
    """

    norm_skip: Sequence[Tensor]
    conv_skip: Sequence[Tensor]
    norm_in: Sequence[Tensor]
    conv_in: Sequence[Tensor]
    norm: Sequence[Tensor]
    conv: Sequence[Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> AttentionParameters:
        """Group parameters that stand one after another."""
        bounds = [0, 4, 6, 10, 12, 16, 18]
        return cls(*(tensors[first:end] for first, end in pairwise(bounds)))

    def norms(self, eps: Sequence[float]) -> list[Normalization]:
        """Return the three BatchNorms."""
        return [Normalization.of(*norm) for norm in zip((self.norm_skip, self.norm_in, self.norm), eps, strict=True)]


def attention_gate(
    maps: Maps,
    parameters: AttentionParameters,
    eps: Sequence[float],
    statistics: bool = True,
    backend: Backend = "auto",
) -> AttentionOutput:
    """Gate x by g, the skip connection at twice its resolution.

    Args:
        maps: g and x; with statistics where their norms use the batch's.
        parameters: of the gate.
        eps: of the three norms.
        statistics: also return mean and M2 of what was written.
        backend: what computes it.

    Raises:
        TypeError: without autocast, maps and weights have different dtypes.
        ValueError: shapes or devices do not fit; the message names what was given and what is expected.
    """
    skip, x = maps.separate()
    check_maps(skip, parameters.conv_skip[0], parameters.norm_skip[0], 1)
    check_maps(x, parameters.conv_in[0], parameters.norm_in[0], 1)
    height, width = (size // 2 for size in skip.data[0].shape[2:])
    if (x.data[0].shape[0], *x.data[0].shape[2:]) != (skip.data[0].shape[0], height, width):
        raise ValueError(
            f"expected features of half the skip connection's size, {skip.data[0].shape[0]} x {height} x {width} "
            f"(samples, rows, columns), got {' x '.join(map(str, (x.data[0].shape[0], *x.data[0].shape[2:])))}"
        )
    maps = maps.cast(operand_dtype(x.data[0], parameters.conv_in[0]))
    flat = [tensor for group in parameters for tensor in group]
    data, mean, m2, *batch = _attention_gate(*maps, flat, list(eps), statistics, backend)[:9]
    return AttentionOutput(data, mean, m2, list(zip(batch[::2], batch[1::2], strict=True)))


def _forward(
    data: list[Tensor],
    mean: list[Tensor],
    m2: list[Tensor],
    gate: list[Tensor],
    upsample: list[bool],
    parameters: list[Tensor],
    eps: list[float],
    statistics: bool,
    backend: Backend,
) -> tuple[Tensor, ...]:
    p = AttentionParameters.of(parameters)
    skip, x = Maps(data, mean, m2, gate, upsample).separate()
    norm_skip, norm_in, norm = p.norms(eps)
    skip_affine, mu_skip, var_skip = skip.normalized(backend, norm_skip)
    pooling = (None, None, None, True)
    pooled, _, _, winners = compute(backend, "conv", *skip.read(skip_affine, True), *p.conv_skip, 1, 1, *pooling, False)
    affine, mu_in, var_in = x.normalized(backend, norm_in)
    finish = (pooled, None, None, False)
    total = compute(backend, "conv", *x.read(affine, True), *p.conv_in, 1, 1, *finish, norm.uses_batch)[:3]
    s = Maps.single(*total)
    total_affine, mu, var = s.normalized(backend, norm)
    gating = (None, x.data[0], x.gate[0] if x.gate[0].numel() else None, False)
    output, output_mean, output_m2, ungated = compute(
        backend, "conv", *s.read(total_affine, True), *p.conv, 1, 1, *gating, statistics
    )
    batch = (mu_skip, var_skip, mu_in, var_in, mu, var)
    kept = (winners, *total, ungated, *skip_affine, *affine, *total_affine)
    return output, output_mean, output_m2, *batch, *kept


def _shapes(
    data: list[Tensor],
    mean: list[Tensor],
    m2: list[Tensor],
    gate: list[Tensor],
    upsample: list[bool],
    parameters: list[Tensor],
    eps: list[float],
    statistics: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    (skip, x), p = data, AttentionParameters.of(parameters)
    (samples, inputs, height, width), channels = x.shape, p.conv[0].shape[0]
    dtype = accumulation_dtype(x.dtype)

    def vectors(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=dtype)

    def moments(wanted: bool) -> tuple[Tensor, Tensor]:
        # A result that was not asked for is an empty tensor in the features' dtype.
        shape = (samples, channels) if wanted else (0,)
        first, second = (x.new_empty(shape, dtype=dtype if wanted else x.dtype) for _ in range(2))
        return first, second

    def image() -> Tensor:
        return empty_image(x, channels, height, width)

    skip_channels = skip.shape[1]
    return (
        image(),
        *moments(statistics),
        *(vectors(count) for count in (skip_channels, skip_channels, inputs, inputs, channels, channels)),
        empty_image(x.to(torch.uint8), channels, height, width),
        image(),
        *moments(p.norm[2].numel() == 0),
        image(),
        *(vectors(3, samples, count) for count in (skip_channels, inputs, channels)),
    )


_attention_gate = register(
    f"attention_gate({SCHEMA}, Tensor[] parameters, float[] eps, bool statistics, str backend) -> (Tensor output, "
    "Tensor mean, Tensor m2, Tensor mu_skip, Tensor var_skip, Tensor mu_in, Tensor var_in, Tensor mu, Tensor var, "
    "Tensor winners, Tensor total, Tensor total_mean, Tensor total_m2, Tensor ungated, Tensor skip_affine, "
    "Tensor affine, Tensor total_affine)",
    _forward,
    _shapes,
)


def _gradients(
    grad: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    data: list[Tensor],
    mean: list[Tensor],
    m2: list[Tensor],
    gate: list[Tensor],
    upsample: list[bool],
    parameters: list[Tensor],
    results: list[Tensor],
    eps: list[float],
    needs_weights: list[bool],
    backend: Backend,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Return the gradients of data, of statistics and gates, and of ``_TRAINED`` parameters.

    ``results`` are those of the forward pass. Statistics as in ``Maps.normalized_backward``; empty tensors stand for
    what has no gradient.
    """
    p = AttentionParameters.of(parameters)
    skip, x = Maps(data, mean, m2, gate, upsample).separate()
    norm_skip, norm_in, norm = p.norms(eps)
    output, output_mean, _, mu_skip, var_skip, mu_in, var_in, mu, var = results[:9]
    winners, total, total_mean, total_m2, ungated, skip_affine, affine, total_affine = results[9:]
    s = Maps.single(total, total_mean, total_m2)
    _, grad_x, grad_scale, (grad_total,), grad_affine, *grad_conv, _ = compute(
        backend,
        "conv_gradients",
        grad,
        output_statistics(output_mean, grad_mean, grad_m2),
        output,
        ungated,
        *s.read([total_affine], True),
        p.conv[0],
        1,
        1,
        x.data[0],
        x.gate[0] if x.gate[0].numel() else None,
        False,
        False,
        True,
        needs_weights[2],
    )
    (statistics,), _, *grad_norm = s.normalized_backward(backend, norm, grad_affine, mu, var)
    grad_pooled, _, _, (grad_x,), grad_affine, *grad_conv_in, _ = compute(
        backend,
        "conv_gradients",
        grad_total,
        statistics if norm.uses_batch else None,
        total,
        total.new_empty(0),
        *x.read([affine], True),
        p.conv_in[0],
        1,
        1,
        *NO_FINISH[1:],
        True,
        True,
        needs_weights[1],
        grad_x,
    )
    (x_statistics,), (x_gate,), *grad_norm_in = x.normalized_backward(backend, norm_in, grad_affine, mu_in, var_in)
    _, _, _, (grad_skip,), grad_affine, *grad_conv_skip, _ = compute(
        backend,
        "conv_gradients",
        grad_pooled,
        None,
        winners,
        winners,
        *skip.read([skip_affine], True),
        p.conv_skip[0],
        1,
        1,
        *NO_FINISH[1:3],
        True,
        False,
        True,
        needs_weights[0],
    )
    (skip_statistics,), (skip_gate,), *grad_norm_skip = skip.normalized_backward(
        backend, norm_skip, grad_affine, mu_skip, var_skip
    )
    gates = [skip_gate, x_gate + grad_scale if x_gate.numel() else x_gate]
    trained = [*grad_norm_skip, *grad_conv_skip, *grad_norm_in, *grad_conv_in, *grad_norm, *grad_conv]
    return [grad_skip, grad_x], [skip_statistics, x_statistics], gates, trained


# Which parameters have a gradient.
_TRAINED = (0, 1, 4, 5, 6, 7, 10, 11, 12, 13, 16, 17)


def _gradient_shapes(
    grad: Tensor,
    grad_mean: Tensor | None,
    grad_m2: Tensor | None,
    data: list[Tensor],
    mean: list[Tensor],
    m2: list[Tensor],
    gate: list[Tensor],
    upsample: list[bool],
    parameters: list[Tensor],
    results: list[Tensor],
    eps: list[float],
    needs_weights: list[bool],
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    vector = results[-1]
    uses_batch = [parameters[k].numel() == 0 for k in (2, 8)]
    needed = [wanted for conv in needs_weights for wanted in (True, True, conv, conv)]
    return (
        [torch.empty_like(x, memory_format=torch.channels_last) for x in data],
        [vector.new_empty((3, *x.shape[:2]) if batch else 0) for x, batch in zip(data, uses_batch, strict=True)],
        [vector.new_empty(g.shape) for g in gate],
        [parameters[k].new_empty(parameters[k].shape if n else 0) for k, n in zip(_TRAINED, needed, strict=True)],
    )


_attention_gate_backward = register(
    f"attention_gate_backward(Tensor grad, Tensor? grad_mean, Tensor? grad_m2, {SCHEMA}, Tensor[] parameters, "
    "Tensor[] results, float[] eps, bool[] needs_weights, str backend) -> (Tensor[] data, Tensor[] statistics, "
    "Tensor[] gates, Tensor[] parameters)",
    _gradients,
    _gradient_shapes,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *maps, upsample, parameters, eps, statistics, backend = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[3 if statistics else 1 :])
    # Without statistics the output itself is not needed again.
    written = output[0] if statistics else output[0].new_empty(0)
    ctx.save_for_backward(*(tensor for group in (*maps, parameters, [written, *output[1:]]) for tensor in group))
    ctx.options = (upsample, eps, backend, len(output), output[0].shape)


def _backward(
    ctx: Any, grad: Tensor | None, grad_mean: Tensor | None, grad_m2: Tensor | None, *_: None
) -> tuple[Any, ...]:
    upsample, eps, backend, count, shape = ctx.options
    saved = list(ctx.saved_tensors)
    maps = [saved[2 * k : 2 * k + 2] for k in range(4)]
    parameters, results = saved[8:-count], saved[-count:]
    grad = maps[0][1].new_zeros(shape) if grad is None else grad
    needed = ctx.needed[5]
    needs_weights = [needed[first] or needed[first + 1] for first in (4, 10, 16)]
    grad_data, statistics, gates, trained = _attention_gate_backward(
        grad, grad_mean, grad_m2, *maps, upsample, parameters, results, eps, needs_weights, backend
    )
    grad_parameters: list[Tensor | None] = [None] * len(parameters)
    for k, gradient in zip(_TRAINED, trained, strict=True):
        grad_parameters[k] = gradient if gradient.numel() else None
    means, squares = statistics_gradients(statistics)
    grad_gates = [g if g.numel() else None for g in gates]
    return grad_data, means, squares, grad_gates, None, grad_parameters, None, None, None


differentiable("attention_gate", _setup_context, _backward)
differentiable_once("attention_gate_backward")
