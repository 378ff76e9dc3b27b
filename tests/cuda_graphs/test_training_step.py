"""A graphed training step makes of a network what a plain loop makes of it, bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastresunet import GraphedTrainingStep
from fastresunet.training.losses import bce_dice_loss

from .recorder import RecordingCapturer
from .training_cases import (
    LEARNING_RATE,
    Batch,
    Change,
    PlainTraining,
    adamw,
    assert_same,
    batches,
    freeze,
    graphed,
    on_device,
    plain,
    real_network,
    run,
    small_network,
    state,
)


def assert_equal_trainings(
    network: Callable[[], nn.Module], data: list[Batch], changes: dict[int, Change] | None = None, **options: Any
) -> GraphedTrainingStep:
    """Assert that a graphed and a plain training are equal; return the graphed one."""
    step = graphed(network(), **options)
    assert_same(run(step, data, changes or {}), run(plain(network(), **options), data, changes or {}))
    return step


def test_steps_of_the_network(capturer: RecordingCapturer) -> None:
    step = assert_equal_trainings(real_network, batches(2, 2, 2, 2, 1, 2, 1, 1))
    assert step.captured == [(2, 3, 16, 16), (1, 3, 16, 16)]
    assert (capturer.runs, capturer.captures, capturer.replays) == (2, 2, 6)


def test_steps_of_the_network_under_autocast_with_clipping(capturer: RecordingCapturer) -> None:
    assert_equal_trainings(real_network, batches(2, 2, 2, 2), autocast=torch.bfloat16, clip_norm=0.1)
    assert capturer.replays == 3


def test_steps_of_the_network_with_normalisations_in_evaluation_mode_and_frozen_parameters(
    capturer: RecordingCapturer,
) -> None:
    def network() -> nn.Module:
        model = real_network()
        for module in (*model.c1.modules(), *model.d2.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        model.c2.requires_grad_(False)
        return model

    assert_equal_trainings(network, batches(2, 2, 2, 2))
    assert capturer.replays == 3


def set_rate(rate: float) -> Change:
    """Return a change of the learning rate, a number for graphs and a tensor in the plain loop."""

    def change(_: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        (group,) = optimizer.param_groups
        group["lr"] = on_device(rate) if isinstance(group["lr"], Tensor) else rate

    return change


def evaluate(model: nn.Module, _: torch.optim.Optimizer) -> None:
    model.eval()(batches(3)[0][0])
    model.train()


def load(model: nn.Module, _: torch.optim.Optimizer) -> None:
    model.load_state_dict({name: 0.9 * value for name, value in small_network().state_dict().items()})


def load_optimizer(_: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def replace_parameters(model: nn.Module, _: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.data = 0.5 * parameter.data


def set_option(**options: Any) -> Change:
    return lambda _, optimizer: [group.update(options) for group in optimizer.param_groups]


def set_momentum(model: nn.Module, _: torch.optim.Optimizer) -> None:
    model.get_submodule("1").momentum = 0.5  # type: ignore[assignment]


def hook(model: nn.Module, _: torch.optim.Optimizer) -> None:
    model.get_submodule("2").register_forward_hook(lambda module, inputs, output: 2 * output)


def swap_layer(model: nn.Module, _: torch.optim.Optimizer) -> None:
    model.register_module("2", nn.LeakyReLU(0.3))


@pytest.mark.parametrize(
    ("change", "recaptured"),
    [
        pytest.param(set_rate(0.1), False, id="learning rate"),
        pytest.param(evaluate, False, id="evaluation in between"),
        pytest.param(load, False, id="checkpoint loaded in place"),
        pytest.param(load_optimizer, True, id="optimiser's checkpoint loaded"),
        pytest.param(replace_parameters, True, id="parameters in other memory"),
        pytest.param(lambda model, _: model.get_submodule("1").eval(), True, id="normalisation to evaluation mode"),
        pytest.param(freeze, True, id="parameters frozen"),
        pytest.param(set_option(weight_decay=0.5), True, id="weight decay"),
        pytest.param(set_option(betas=(0.5, 0.9)), True, id="betas"),
        pytest.param(set_option(weight_decay=0.01), False, id="option set to its value"),
        pytest.param(set_momentum, True, id="momentum of a normalisation"),
        pytest.param(hook, True, id="hook"),
        pytest.param(swap_layer, True, id="another layer"),
    ],
)
def test_changes_between_steps(capturer: RecordingCapturer, change: Change, recaptured: bool) -> None:
    assert_equal_trainings(small_network, batches(*6 * [2]), {3: change})
    assert capturer.captures == 1 + recaptured


def test_a_change_at_every_step_is_computed_eagerly(capturer: RecordingCapturer) -> None:
    changes = {number: set_option(weight_decay=0.1 * number) for number in range(5)}
    assert_equal_trainings(small_network, batches(*5 * [2]), changes)
    assert capturer.captures == 0


def test_schedulers_set_the_rate_that_graphs_read(capturer: RecordingCapturer) -> None:
    step, expected = graphed(small_network()), plain(small_network())
    schedulers = [torch.optim.lr_scheduler.LambdaLR(x.optimizer, lambda n: 0.5**n) for x in (step, expected)]
    for images, masks in batches(*5 * [2]):
        assert_same([step(images, masks)], [expected(images, masks)])
        for scheduler in schedulers:
            scheduler.step()
    assert_same(state(step.model, step.optimizer), state(expected.model, expected.optimizer))
    assert step.optimizer.param_groups[0]["lr"] == LEARNING_RATE * 0.5**5  # still a number
    assert step.optimizer.param_groups[0]["capturable"] is False
    assert capturer.captures == 1


def test_autograd_notices_replays_as_it_notices_steps(capturer: RecordingCapturer) -> None:
    step = graphed(small_network())
    batch, *_ = batches(2)
    for _ in range(3):
        loss = step.loss(step.model(batch[0]), batch[1])
        step(*batch)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        step.optimizer.zero_grad()
    assert capturer.replays == 2


def test_other_dtypes_afterwards(capturer: RecordingCapturer) -> None:
    step = graphed(small_network())
    for images, masks in batches(2, 2, 2):
        step(images, masks)
    step.model.double()
    step.optimizer.load_state_dict(adamw(step.model).state_dict())
    losses = [step(images.double(), masks) for images, masks in batches(2, 2, 2)]
    assert all(loss.isfinite() for loss in losses)
    assert capturer.captures == 2
    assert step.captured == [(2, 3, 16, 16)]


def test_what_surrounds_the_call_is_not_captured(capturer: RecordingCapturer) -> None:
    step, expected = graphed(small_network(), autocast=torch.bfloat16), plain(small_network(), autocast=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = run(step, batches(*4 * [2]), {})
    assert_same(found, run(expected, batches(*4 * [2]), {}))
    without = graphed(small_network())
    with torch.autocast("cpu", torch.bfloat16):
        found = run(without, batches(*4 * [2]), {})
    assert_same(found, run(plain(small_network()), batches(*4 * [2]), {}))


def test_sgd(capturer: RecordingCapturer) -> None:
    def sgd(model: nn.Module, rate: float | Tensor) -> torch.optim.SGD:
        return torch.optim.SGD(model.parameters(), rate, momentum=0.9, fused=True)

    model, other = small_network(), small_network()
    step = GraphedTrainingStep(model, bce_dice_loss, sgd(model, 0.1))
    expected = PlainTraining(other, sgd(other, on_device(0.1)))
    data = batches(*4 * [2])
    assert_same(run(step, data, {}), run(expected, data, {}))
    assert capturer.replays == 3
