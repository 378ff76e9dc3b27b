"""Every kernel, interpreted, against the PyTorch backend: values, gradients, statistics, the whole network."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from fastresunet_kernels import convolution, merged_affine, source_part
from fastresunet_kernels.config import Config
from torch import nn

from fastresunet import FastResUNetPP, ops
from fastresunet.ops.backend import _warn_once, compute
from fastresunet.ops.layout import channels_last
from fastresunet.ops.source import flatten
from fastresunet.training.compare import activation_bytes
from tests.numerics import (
    assert_buffers_close,
    assert_gradients_close,
    relative_difference,
)
from tests.ops import plain
from tests.ops.cases import CASES, ConvCase, operands
from tests.ops.test_conv import check_rounding, run
from tests.ops.test_conv_norm_sum import LAYOUTS, branch, sources
from tests.ops.test_vectors import check_added_gates, check_affine, check_excitation, check_excitation_statistics

SUPPORTED = [case for case in CASES if case.name != "upsample-pool"]
# More than one tile of pixels, the last one not full.
LARGER = [
    replace(case, name=f"{case.name}-larger", size=(18, 14))
    for case in SUPPORTED
    if case.name in ("plain", "stride2", "pool", "gate", "decoder", "residual", "48-channels")
]

triton_conv = partial(ops.conv, backend="triton")


@pytest.mark.parametrize("case", SUPPORTED + LARGER, ids=lambda case: case.name)
def test_values_and_gradients_in_float64(case: ConvCase) -> None:
    x = operands(case)
    results, expected = run(triton_conv, x), run(plain.conv, x)
    for group, twin in zip(results, expected, strict=True):
        for value, exact in zip(group, twin, strict=True):
            assert relative_difference(value, exact) <= 1e-11


@pytest.mark.parametrize("kind", ["normal", "offset", "negative", "ties"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["plain", "gate", "pool", "residual", "decoder"])
def test_rounds_no_worse_than_the_plain_twin(name: str, dtype: torch.dtype, kind: str) -> None:
    # The kernels add in another order; of a few hundred roundings the largest is compared.
    check_rounding(triton_conv, name, dtype, kind, factor=3)


@pytest.mark.parametrize("running", [False, True], ids=["batch-statistics", "running-statistics"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sum_of_normalised_convolutions(layout: str, running: bool) -> None:
    channels, upsample, kernel, rates, stride = LAYOUTS[layout]
    inputs = sources(channels, upsample, gated=True)
    branches = [branch(sum(channels), 6, kernel, rate, running) for rate in rates]
    leaves = [x for s in inputs for x in (s.data, s.affine) if x is not None]
    leaves += [x for b in branches for x in (b.weight, b.bias, b.gamma, b.beta)]
    total = ops.conv_norm_sum(inputs, branches, stride=stride, backend="triton")[0]
    expected = plain.conv_norm_sum(inputs, branches, stride=stride)
    assert relative_difference(total, expected) <= 1e-12
    direction = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, leaves, direction) for y in (total, expected)]
    largest = max(float(g.abs().max()) for g in gradients[1])
    for value, true in zip(*gradients, strict=True):
        assert float((value - true).abs().max()) <= 1e-12 * largest


@pytest.mark.parametrize("kernels", [(3, 1), (1, 3)], ids=["3x3-then-1x1", "1x1-then-3x3"])
def test_branches_of_different_kernel_sizes_are_left_to_pytorch(kernels: tuple[int, int]) -> None:
    inputs = sources((4,), (False,), gated=True)
    branches = [branch(4, 6, kernel, 1, running=False) for kernel in kernels]
    _warn_once.cache_clear()
    with pytest.warns(UserWarning, match="different kernel sizes"):
        total = ops.conv_norm_sum(inputs, branches, backend="triton")[0]
    expected = plain.conv_norm_sum(inputs, branches)
    assert relative_difference(total, expected) <= 1e-12
    leaves = [inputs[0].data, *(b.weight for b in branches)]
    for value, true in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (total, expected)), strict=True):
        assert relative_difference(value, true) <= 1e-11


@pytest.mark.parametrize("layout", ["aspp", "shortcut"])
def test_weights_of_branches_may_have_any_layout(layout: str) -> None:
    channels, upsample, kernel, rates, stride = LAYOUTS[layout]
    inputs = sources(channels, upsample, gated=True)
    branches = [branch(sum(channels), 6, kernel, rate, running=False) for rate in rates]
    permuted = [replace(b, weight=b.weight.detach().transpose(0, 1).contiguous().transpose(0, 1)) for b in branches]
    assert not permuted[0].weight.is_contiguous()
    totals = [ops.conv_norm_sum(inputs, bs, stride=stride, backend="triton")[0] for bs in (branches, permuted)]
    assert torch.equal(*totals)
    # The transposed packing is that of the sources' gradients.
    assert torch.equal(*(torch.autograd.grad(total.square().sum(), inputs[0].data)[0] for total in totals))


def test_gradients_of_statistics_may_be_slices() -> None:
    x = operands(next(case for case in CASES if case.name == "plain"))
    gradients = []
    for conv in (triton_conv, plain.conv):
        data, mean, m2 = conv(x.sources, x.weight, x.bias)
        assert mean is not None
        assert m2 is not None
        wide = torch.cat([torch.zeros_like(mean), mean * m2], dim=1)
        loss = data.sin().sum() + (wide * torch.linspace(0, 1, wide.numel()).view_as(wide)).sum()
        gradients.append(torch.autograd.grad(loss, x.weight)[0])
    assert relative_difference(gradients[0], gradients[1]) <= 1e-11


def test_gradcheck() -> None:
    x = operands(next(case for case in CASES if case.name == "decoder"))

    def function(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        data, mean, m2 = triton_conv(x.sources, weight, x.bias)
        assert mean is not None
        assert m2 is not None
        return data, mean, m2

    assert torch.autograd.gradcheck(function, (x.weight,), fast_mode=True)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_whole_network_in_float64(training: bool) -> None:
    plain_model = FastResUNetPP(filters=(8, 8, 8, 16, 16), aspp_rates=(1, 3), backend="torch")
    for module in plain_model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    model = FastResUNetPP(filters=(8, 8, 8, 16, 16), aspp_rates=(1, 3), backend="triton")
    model.load_state_dict(plain_model.state_dict())
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    outputs = []
    for network in (model, plain_model):
        output = network.double().train(training)(image)
        output.sin().sum().backward()
        outputs.append(output)
    assert relative_difference(outputs[0], outputs[1]) <= 1e-12
    assert_gradients_close(model, plain_model, 1e-9)
    assert_buffers_close(model, plain_model, 1e-12)


def test_unsupported_combination_falls_back_to_pytorch_with_one_warning() -> None:
    x = operands(next(case for case in CASES if case.name == "upsample-pool"))
    with pytest.warns(UserWarning, match="computed by PyTorch instead: pooling of an upsampled source"):
        results = run(triton_conv, x)
    for group, twin in zip(results, run(plain.conv, x), strict=True):
        for value, exact in zip(group, twin, strict=True):
            assert relative_difference(value, exact) <= 1e-12


@pytest.mark.parametrize("running", [False, True], ids=["batch-statistics", "running-statistics"])
@pytest.mark.parametrize("gated", [False, True], ids=["no-gate", "gate"])
@pytest.mark.parametrize("channels", [(5,), (5, 18)], ids=["one-map", "two-maps"])
def test_batch_norm_vectors(channels: tuple[int, ...], gated: bool, running: bool) -> None:
    check_affine(channels, gated, running, "triton")


@pytest.mark.parametrize(("channels", "hidden"), [(16, 2), (5, 1), (70, 9)], ids=["thin", "one-hidden", "two-blocks"])
def test_squeeze_and_excitation(channels: int, hidden: int) -> None:
    check_excitation(channels, hidden, "triton")


@pytest.mark.parametrize("samples", [3, 11], ids=["one-block", "two-blocks"])
def test_excitation_joins_other_gradients(samples: int) -> None:
    check_excitation_statistics(samples, "triton")


@pytest.mark.parametrize("running", [False, True], ids=["batch-statistics", "running-statistics"])
def test_gates_have_gradients_from_elsewhere(running: bool) -> None:
    check_added_gates(running, "triton")


@pytest.mark.parametrize("reader", ["batch-statistics", "running-statistics", "separately", "excitation"])
@pytest.mark.parametrize("name", ["plain-larger", "one-pixel", "residual-larger", "decoder-larger", "48-channels"])
def test_convolution_and_what_reads_its_statistics(name: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(next(case for case in SUPPORTED + LARGER if case.name == name), samples=3)
    x = operands(case)
    residual = channels_last(x.options["residual"]) if case.epilogue == "residual" else None
    read = (*flatten(x.sources, torch.float64), x.weight, x.bias, 1, residual)
    if reader == "separately":
        monkeypatch.setattr(merged_affine, "_MOST_TILES", 2)
    more: list[Any]
    if reader == "excitation":
        operation, more = "conv_excitation", [torch.randn(2, case.out).double(), torch.randn(case.out, 2).double()]
    else:
        gamma, beta, mean, variance = torch.rand(4, case.out, dtype=torch.float64) + 0.5
        running = [mean, variance] if reader == "running-statistics" else [None, None]
        operation, more = "conv_batch_affine", [gamma, beta, 1e-5, *running]
    with torch.no_grad():
        results, expected = (compute(backend, operation, *read, *more) for backend in ("triton", "torch"))
    for value, exact in zip(results, expected, strict=True):
        assert value.shape == exact.shape
        assert not exact.numel() or relative_difference(value, exact) <= 1e-12


@pytest.mark.parametrize(("rows", "all_taps"), [(2, False), (4, True)], ids=["2-rows-one-tap", "4-rows-all-taps"])
@pytest.mark.parametrize("name", ["plain", "dilation6", "stride2", "decoder", "pointwise"])
def test_windows_and_taps(name: str, rows: int, all_taps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(next(case for case in CASES if case.name == name), size=(14, 10))
    config = Config(16, 16, 16, window_rows=rows, all_taps=all_taps)
    for launcher in (convolution, source_part):
        monkeypatch.setattr(launcher, "choose", lambda layer, device: config)
    x = operands(case)
    results, expected = run(triton_conv, x), run(plain.conv, x)
    for group, twin in zip(results, expected, strict=True):
        for value, exact in zip(group, twin, strict=True):
            assert relative_difference(value, exact) <= 1e-11


def test_a_training_step_is_bitwise_repeatable() -> None:
    model = FastResUNetPP(filters=(8, 8, 8, 8, 8), aspp_rates=(1,), backend="triton")
    image = torch.randn(2, 3, 8, 8)
    steps = []
    for _ in range(2):
        repeated = copy.deepcopy(model)
        repeated(image).sin().sum().backward()
        steps.append([p.grad for p in repeated.parameters()] + [b.clone() for b in repeated.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_kept_activations() -> None:
    image = torch.randn(2, 3, 16, 16)
    backends: tuple[ops.Backend, ...] = ("triton", "torch")
    networks = [FastResUNetPP(filters=(8, 8, 8, 16, 16), aspp_rates=(1, 3), backend=backend) for backend in backends]
    kept, plainly = (activation_bytes(network, image) for network in networks)
    assert kept <= 1.01 * plainly
