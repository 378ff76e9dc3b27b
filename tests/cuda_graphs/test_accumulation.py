"""Gradients over several batches, and those that a scaler looks at, equal those of a plain loop."""

from __future__ import annotations

import pytest
import torch

from fastresunet import GraphedTrainingStep
from fastresunet.training.losses import bce_dice_loss

from .recorder import RecordingCapturer
from .training_cases import (
    PlainTraining,
    adamw,
    assert_same,
    batches,
    freeze,
    graphed,
    plain,
    small_network,
    state,
)


@pytest.mark.parametrize("clip_norm", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize("counts", [(2,), (3,), (2, 1, 4, 2)], ids=str)
def test_accumulation(capturer: RecordingCapturer, counts: tuple[int, ...], clip_norm: float | None) -> None:
    step, expected = graphed(small_network(), clip_norm=clip_norm), plain(small_network(), clip_norm=clip_norm)
    for count in 12 // sum(counts) * 2 * counts:
        for number, (images, masks) in enumerate(batches(*count * [2])):
            update = number == count - 1
            assert_same([step(images, masks, update=update)], [expected(images, masks, update=update)])
            gradients = [[x.grad for x in one.model.parameters()] for one in (step, expected)]
            assert update == all(gradient is None for gradient in gradients[0])
            if not update:
                assert_same(*gradients)  # type: ignore[arg-type]
    assert_same(state(step.model, step.optimizer), state(expected.model, expected.optimizer))
    assert capturer.replays > capturer.runs


def test_zero_grad_starts_an_accumulation_anew(capturer: RecordingCapturer) -> None:
    step, expected = graphed(small_network()), plain(small_network())
    for images, masks in batches(*5 * [2]):
        for one in (step, expected):
            one(images, masks, update=False)
            one.optimizer.zero_grad()
            one(images, masks, update=False)
            one(images, masks)
    assert_same(state(step.model, step.optimizer), state(expected.model, expected.optimizer))


@pytest.mark.parametrize("clip_norm", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize("count", [1, 2], ids=["every step", "accumulated"])
def test_scaler_outside_of_the_graph(capturer: RecordingCapturer, count: int, clip_norm: float | None) -> None:
    # The first scales overflow float32: those steps are left out.
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=3) for _ in range(2)]
    step = GraphedTrainingStep(
        small := small_network(),
        lambda logits, masks: 8 * bce_dice_loss(logits, masks),
        adamw(small),
        scaler=scalers[0],
        clip_norm=clip_norm,
    )
    other = small_network()
    expected = PlainTraining(other, adamw(other), scaler=scalers[1], clip_norm=clip_norm, loss_factor=8)
    for number, (images, masks) in enumerate(batches(*14 * [2])):
        update = number % count == count - 1
        assert_same([step(images, masks, update=update)], [expected(images, masks, update=update)])
    assert_same(state(step.model, step.optimizer), state(expected.model, expected.optimizer))
    assert scalers[0].state_dict() == scalers[1].state_dict()
    assert scalers[0].get_scale() < 2.0**127
    assert capturer.captures == count
    assert capturer.replays == 14 - count


def test_gradients_of_another_origin_are_refused(capturer: RecordingCapturer) -> None:
    step = graphed(small_network())
    (images, masks), *_ = batches(2)
    step.loss(step.model(images), masks).backward()
    with pytest.raises(
        RuntimeError, match=r"gradients that this training step has not made; call optimizer\.zero_grad"
    ):
        step(images, masks)


def test_freezing_inside_an_accumulation_is_refused(capturer: RecordingCapturer) -> None:
    step = graphed(small_network())
    for images, masks in batches(2, 2, 2):
        step(images, masks, update=False)
    freeze(step.model, step.optimizer)
    with pytest.raises(RuntimeError, match=r"this batch gives them to 4, those before to 6\. Update before you freeze"):
        step(images, masks)
    step.optimizer.zero_grad()
    step(images, masks)
