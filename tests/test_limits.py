"""What the fused network does not do is refused or computed plainly, never silently wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from fastresunet import FastResUNetPP, blocks, ops, reference
from tests.numerics import assert_gradients_close, relative_difference

SMALL: dict[str, Any] = {"filters": (8, 8, 8, 8, 8)}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_second_derivatives_are_refused(training: bool) -> None:
    model = FastResUNetPP(**SMALL).train(training)
    image = torch.randn(2, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(image).square().sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivative; use fastresunet\.ResUNetPP"):
        gradient.sum().backward()


def test_forward_mode_derivatives_are_refused() -> None:
    model = FastResUNetPP(**SMALL).eval().requires_grad_(False)
    image = torch.randn(1, 3, 16, 16)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        model(forward_ad.make_dual(image, torch.ones_like(image)))
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(model, (image,), (torch.ones_like(image),))


def replace_relu(block: Any) -> None:
    block.c1[1] = nn.LeakyReLU()


def replace_relu_by_another_layers_kind(block: Any) -> None:
    block.c1[1] = nn.Sigmoid()


def swap_norm_and_relu(block: Any) -> None:
    block.c1[0], block.c1[1] = block.c1[1], block.c1[0]


def excitation_with_bias(block: Any) -> None:
    torch.manual_seed(1)
    block.attn.net[0] = nn.Linear(8, 1).double()


def replace_norm(block: Any) -> None:
    torch.manual_seed(1)
    block.c1[0] = nn.GroupNorm(2, 8).double()


def norm_without_parameters(block: Any) -> None:
    block.c1[0] = nn.BatchNorm2d(8, affine=False).double()


def reflect_padding(block: Any) -> None:
    torch.manual_seed(1)
    block.c1[5] = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect").double()


def add_dropout(block: Any) -> None:
    block.c1.append(nn.Dropout2d(0.0))


def hook_that_doubles(block: Any) -> None:
    block.c1[2].register_forward_hook(lambda module, inputs, output: 2 * output)


def weight_norm(block: Any) -> None:
    nn.utils.parametrizations.weight_norm(block.c1[2])


CHANGES = [
    replace_relu,
    replace_relu_by_another_layers_kind,
    swap_norm_and_relu,
    excitation_with_bias,
    replace_norm,
    norm_without_parameters,
    reflect_padding,
    add_dropout,
    hook_that_doubles,
    weight_norm,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_blocks_compute_what_the_plain_block_computes(change: Callable[[Any], None]) -> None:
    plain = reference.ResidualBlock(8, 8).double()
    fused = blocks.ResidualBlock(8, 8).double()
    fused.load_state_dict(plain.state_dict())
    change(plain)
    change(fused)
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    output, expected = fused(x), plain(x)
    assert relative_difference(output, expected) <= 1e-12
    output.sin().sum().backward()
    expected.sin().sum().backward()
    assert_gradients_close(fused, plain, 1e-9)


def test_changed_block_inside_the_network() -> None:
    plain: Any = reference.ResUNetPP(**SMALL).double()
    fused: Any = FastResUNetPP(**SMALL).double()
    fused.load_state_dict(plain.state_dict())
    for model in (plain, fused):
        model.c3.c1[1] = nn.LeakyReLU()
        model.d2.r1.c1[4] = nn.GELU()
        model.aspp.c2[1] = nn.Identity()
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert relative_difference(fused(image), plain(image)) <= 1e-10


def test_frozen_tracking_leaves_the_running_statistics_alone() -> None:
    block = blocks.ResidualBlock(8, 8)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    before = copy.deepcopy(block.state_dict())
    block(torch.randn(2, 8, 6, 6))
    assert all(map(torch.equal, before.values(), block.state_dict().values()))


@pytest.mark.parametrize("channels", [1, 4])
def test_wrong_channels_leave_the_running_statistics_alone(channels: int) -> None:
    block = blocks.ResidualBlock(8, 8)
    before = copy.deepcopy(block.state_dict())
    with pytest.raises(ValueError, match=f"expected features of 8 channels, got {channels}"):
        block(torch.randn(2, channels, 6, 6))
    assert all(map(torch.equal, before.values(), block.state_dict().values()))


@pytest.mark.parametrize("momentum", [0.1, None], ids=["momentum", "average"])
def test_running_variance_of_half_precision_does_not_overflow(momentum: float | None) -> None:
    plain: Any = reference.AttentionGate(4, 4).half()
    fused: Any = blocks.AttentionGate(4, 4).half()
    for block in (plain, fused):
        block.g_conv[0].momentum = momentum
        block.g_conv[0].num_batches_tracked.fill_(9)
    skip, x = 300 * torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)
    plain(skip.half(), x.half())
    fused(skip.half(), x.half())
    expected = plain.g_conv[0].running_var.double()
    assert torch.isfinite(expected).all()
    assert relative_difference(fused.g_conv[0].running_var.double(), expected) < 4 * torch.finfo(torch.half).eps


def test_keyword_arguments() -> None:
    gate = blocks.AttentionGate(3, 4).eval()
    skip, x = torch.randn(1, 3, 8, 8), torch.randn(1, 4, 4, 4)
    assert torch.equal(gate(g=skip, x=x), gate(skip, x))


def test_meta_device() -> None:
    model = FastResUNetPP(**SMALL).to("meta")
    assert model(torch.empty(2, 3, 17, 24, device="meta")).shape == (2, 1, 17, 24)


@pytest.mark.parametrize("operand", ["bias", "residual", "affine"])
def test_operands_on_another_device(operand: str) -> None:
    affine = torch.zeros(3, 1, 4)
    tensors: dict[str, Any] = {"bias": torch.zeros(5), "residual": torch.zeros(1, 5, 6, 6)}
    if operand == "affine":
        affine = affine.to("meta")
    else:
        tensors[operand] = tensors[operand].to("meta")
    source = ops.Source(torch.zeros(1, 4, 6, 6), affine)
    with pytest.raises(ValueError, match=f"{operand} is on meta, the weight on cpu"):
        ops.conv([source], torch.zeros(5, 4, 3, 3), **tensors)


def test_gradients_have_the_strides_of_their_parameters() -> None:
    model = FastResUNetPP(**SMALL)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name
