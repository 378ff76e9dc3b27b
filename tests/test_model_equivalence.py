"""FastResUNetPP against the plain network: same outputs, gradients and running statistics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastresunet import FastResUNetPP, ResUNetPP
from tests.numerics import (
    assert_as_close_as_reference,
    assert_buffers_close,
    assert_gradients_close,
    assert_gradients_round_alike,
    hurtful_image,
    relative_difference,
)

SMALL: dict[str, Any] = {"filters": (8, 16, 8, 24, 16)}


def pair(dtype: torch.dtype = torch.float64, **arguments: Any) -> tuple[FastResUNetPP, ResUNetPP]:
    """Return the fast and the plain network with the same random parameters and running statistics."""
    reference = ResUNetPP(**{**SMALL, **arguments})
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    fast = FastResUNetPP(**{**SMALL, **arguments})
    fast.load_state_dict(reference.state_dict())
    return fast.to(dtype), reference.to(dtype)


def step(model: nn.Module, image: Tensor) -> Tensor:
    """Run forward and backward with a fixed random loss and return the output."""
    output: Tensor = model(image)
    weights = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).view_as(output)
    (output.double() * weights).sum().backward()
    return output.detach()


def assert_same_step(fast: FastResUNetPP, reference: ResUNetPP, image: Tensor) -> None:
    output, expected = step(fast, image), step(reference, image)
    assert relative_difference(output, expected) <= 1e-10
    assert_gradients_close(fast, reference, 1e-6)
    assert_buffers_close(fast, reference, 1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (2, 3, 32, 48)),
        ({}, (1, 3, 16, 16)),
        ({"in_channels": 1, "num_classes": 3}, (2, 1, 24, 16)),
        ({"in_channels": 5, "filters": (9, 17, 8, 20, 30), "se_reduction": 4}, (2, 5, 16, 24)),
        ({"aspp_rates": (2, 40)}, (2, 3, 24, 24)),
        ({"aspp_rates": (3,)}, (2, 3, 16, 16)),
        ({"filters": (16, 32, 64, 128, 256)}, (2, 3, 32, 32)),
    ],
    ids=["batch2", "batch1", "gray-3-classes", "odd-channels", "rate-beyond-map", "one-rate", "default-filters"],
)
def test_float64(arguments: dict[str, Any], shape: tuple[int, ...], training: bool) -> None:
    fast, reference = pair(**arguments)
    assert_same_step(fast.train(training), reference.train(training), torch.randn(shape, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["normal", "offset", "negative", "ties", "strided"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_float32_rounds_no_worse_than_the_reference(kind: str, training: bool) -> None:
    trials = []
    for _ in range(4):
        fast, reference = pair(torch.float32)
        exact = copy.deepcopy(reference).double()
        for model in (fast, reference, exact):
            model.train(training)
        image = hurtful_image((2, 3, 32, 32), kind, torch.float32)
        outputs = [step(fast, image), step(reference, image), step(exact, image.double())]
        assert_as_close_as_reference(outputs[0], outputs[1], outputs[2], torch.float32, reduction_length=24 * 9)
        trials.append((fast, reference, exact))
    assert_gradients_round_alike(trials)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("how", ["autocast", "converted"])
def test_half_precision_rounds_no_worse_than_the_reference(dtype: torch.dtype, how: str) -> None:
    trials = []
    for _ in range(4):
        fast, reference = pair(torch.float32)
        exact = copy.deepcopy(reference).double()
        image = torch.randn(2, 3, 32, 32)
        expected = step(exact, image.double())
        if how == "converted":
            fast, reference, image = fast.to(dtype), reference.to(dtype), image.to(dtype)
            outputs = [step(model, image) for model in (fast, reference)]
        else:
            with torch.autocast("cpu", dtype):
                outputs = [step(model, image) for model in (fast, reference)]
        assert outputs[0].dtype == outputs[1].dtype == dtype
        assert_as_close_as_reference(outputs[0], outputs[1], expected, dtype, reduction_length=24 * 9)
        for (name, a), b in zip(fast.named_buffers(), exact.buffers(), strict=True):
            assert relative_difference(a.double(), b.double()) < 20 * torch.finfo(dtype).eps, name
        trials.append((fast, reference, exact))
    assert_gradients_round_alike(trials)


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (17, 8), (31, 33)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_sizes_that_are_no_multiple_of_8_are_padded_with_the_border(size: tuple[int, int]) -> None:
    fast, reference = pair()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    bottom, right = -size[0] % 8, -size[1] % 8
    padded = nn.functional.pad(image, (0, right, 0, bottom), mode="replicate")
    expected = reference(padded)[:, :, : size[0], : size[1]]
    assert relative_difference(fast(image), expected) <= 1e-10


def test_multiples_of_8_are_computed_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = pair(torch.float32)
    image = torch.randn(1, 3, 24, 40)
    expected = fast.eval()(image)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("padded an image whose size is a multiple of 8")

    monkeypatch.setattr("fastresunet.model.F.pad", fail)
    assert torch.equal(fast(image), expected)


FREEZING = {
    "everything": lambda name: False,
    "encoder": lambda name: not name.startswith(("c1", "c2", "c3", "c4")),
    "biases": lambda name: not name.endswith("bias"),
    "all-but-one-bias": lambda name: name == "d1.r1.c1.5.bias",
    "all-but-head": lambda name: name.startswith("output"),
    "all-but-excitation": lambda name: "attn" in name,
}


@pytest.mark.parametrize("kept", [k for k in FREEZING if k != "everything"])
def test_frozen_parameters(kept: str) -> None:
    fast, reference = pair()
    for model in (fast, reference):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(FREEZING[kept](name))
    assert_same_step(fast, reference, torch.randn(2, 3, 16, 16, dtype=torch.float64))


def test_frozen_network_gives_the_gradient_of_the_image() -> None:
    fast, reference = pair()
    gradients = []
    for model in (fast, reference):
        model.requires_grad_(False).eval()
        image = torch.linspace(-1, 1, 2 * 3 * 16 * 16, dtype=torch.float64).view(2, 3, 16, 16).requires_grad_()
        model(image).square().sum().backward()
        gradients.append(image.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert relative_difference(gradients[0], gradients[1]) <= 1e-10


@pytest.mark.parametrize("which", ["all", "some", "one-aspp-branch"])
def test_normalisation_in_eval_mode_while_the_rest_trains(which: str) -> None:
    fast, reference = pair()
    for model in (fast, reference):
        norms = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
        for position, (name, norm) in enumerate(norms):
            frozen = {"all": True, "some": position % 3 == 0, "one-aspp-branch": name == "b1.c2.1"}[which]
            norm.train(not frozen)
    assert_same_step(fast, reference, torch.randn(2, 3, 16, 16, dtype=torch.float64))


def test_one_block_in_train_mode_while_the_rest_evaluates() -> None:
    fast, reference = pair()
    for model in (fast, reference):
        model.eval()
        model.d2.train()
    assert_same_step(fast, reference, torch.randn(2, 3, 16, 16, dtype=torch.float64))


def test_cumulative_moving_average_of_the_statistics() -> None:
    fast, reference = pair()
    for model in (fast, reference):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
    for _ in range(3):
        image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
        fast(image)
        reference(image)
    assert_buffers_close(fast, reference, 1e-12)


def test_gradients_accumulate_over_steps() -> None:
    fast, reference = pair()
    for _ in range(2):
        assert_same_step(fast, reference, torch.randn(2, 3, 16, 16, dtype=torch.float64))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_nan_in_the_image_gives_nan_out(training: bool) -> None:
    fast, reference = pair(torch.float32)
    image = torch.randn(2, 3, 16, 16)
    image[0, 0, 3, 3] = torch.nan
    output, expected = fast.train(training)(image), reference.train(training)(image)
    assert torch.isnan(output[0]).any()
    assert torch.equal(torch.isnan(output), torch.isnan(expected))
