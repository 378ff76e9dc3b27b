"""The loss against its formula in float64, and where masks are empty."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from fastresunet.training.loss_choices import choose_loss
from fastresunet.training.losses import bce_dice_loss
from fastresunet.training.recipe import Loss


def formula(logits: Tensor, target: Tensor) -> Tensor:
    logits, target = logits.double(), target.double()
    probability = 1 / (1 + torch.exp(-logits))
    cross_entropy = -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()
    dice = [(2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1) for p, t in zip(probability, target, strict=True)]
    return cross_entropy + 1 - torch.stack(dice).mean()


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 1, 16, 20, generator=generator) * 3
    return logits, (torch.rand(3, 1, 16, 20, generator=generator) > 0.7).float()


@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_formula(seed: int) -> None:
    logits, target = example(seed)
    torch.testing.assert_close(bce_dice_loss(logits, target).double(), formula(logits, target), rtol=1e-6, atol=0)


def test_loss_is_float32_under_autocast() -> None:
    logits, target = example()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = bce_dice_loss(logits.bfloat16(), target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), formula(logits.bfloat16(), target), rtol=1e-6, atol=0)


def test_large_float16_logits_do_not_overflow() -> None:
    logits = torch.full((1, 1, 300, 300), 60000.0, dtype=torch.float16)
    assert torch.isfinite(bce_dice_loss(logits, torch.zeros_like(logits)))


@pytest.mark.parametrize("value", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("foreground", [0.0, 1.0], ids=["empty mask", "full mask"])
def test_constant_masks_have_finite_gradients(foreground: float, value: float) -> None:
    logits = torch.full((2, 1, 8, 8), value, requires_grad=True)
    loss = bce_dice_loss(logits, torch.full((2, 1, 8, 8), foreground))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_right_empty_prediction_costs_nothing() -> None:
    assert bce_dice_loss(torch.full((1, 1, 8, 8), -50.0), torch.zeros(1, 1, 8, 8)).item() == pytest.approx(0, abs=1e-6)


def test_different_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\) and \(1, 8, 8\)"):
        bce_dice_loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8))


@pytest.mark.parametrize("name", get_args(Loss))
def test_every_loss_is_float32_falls_with_better_logits_and_bears_empty_masks(name: Loss) -> None:
    loss = choose_loss(name)
    logits, target = example()
    better = logits + 4 * (2 * target - 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [loss(x.bfloat16(), target) for x in (logits, better)]
    assert {value.dtype for value in values} == {torch.float32}
    assert values[1] < values[0]
    logits.requires_grad_(True)
    loss(logits, torch.zeros_like(target)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


def test_tversky_minds_misses_more_than_false_alarms() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    missed, alarmed = target.clone(), target.clone()
    missed[..., 3], alarmed[..., 4] = 0, 1
    tversky = choose_loss("tversky")
    assert tversky(20 * missed - 10, target) > 1.5 * tversky(20 * alarmed - 10, target)
