"""What a graphed training step promises beside its numbers: copies, bounds, errors."""

from __future__ import annotations

import copy
import io
import warnings
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
    PlainTraining,
    adamw,
    assert_same,
    batches,
    graphed,
    plain,
    run,
    small_network,
    state,
)


def test_losses_are_not_overwritten(capturer: RecordingCapturer) -> None:
    step = graphed(small_network())
    losses = [(loss := step(*batch), float(loss)) for batch in batches(2, 2, 2, 2)]
    assert all(float(loss) == before for loss, before in losses)
    assert len({before for _, before in losses}) == 4


def test_more_shapes_than_allowed_are_computed_eagerly(capturer: RecordingCapturer) -> None:
    step, expected = graphed(small_network(), max_shapes=2), plain(small_network())
    with warnings.catch_warnings(record=True) as caught:
        for batch in 3 * batches(2, 1, 3, 4):
            assert_same([step(*batch)], [expected(*batch)])
    (warning,) = caught
    assert "max_shapes=2 shapes, which are 2x3x16x16, 1x3x16x16; others, such as 3x3x16x16" in str(warning.message)
    assert warning.filename == __file__
    assert step.captured == [(2, 3, 16, 16), (1, 3, 16, 16)]
    assert (capturer.captures, capturer.replays, capturer.runs) == (2, 4, 8)
    assert_same(state(step.model, step.optimizer), state(expected.model, expected.optimizer))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: reload(x)], ids=["deepcopy", "pickle"])
def test_copies_train_on_by_themselves(
    capturer: RecordingCapturer, duplicate: Callable[[GraphedTrainingStep], GraphedTrainingStep]
) -> None:
    step, expected = graphed(small_network()), plain(small_network())
    first, last = batches(*3 * [2]), batches(*4 * [2])
    run(step, first, {})
    other = duplicate(step)
    assert other.captured == []
    before = state(step.model, step.optimizer)
    found = run(other, last, {})
    assert_same(state(step.model, step.optimizer), before)
    assert_same(found, [*run(expected, first, {})[:0], *run(expected, last, {})])
    model = copy.deepcopy(step.model)
    run(step, last, {})
    assert_same(model.state_dict().values(), before[: len(model.state_dict())])


def reload(step: GraphedTrainingStep) -> GraphedTrainingStep:
    file = io.BytesIO()
    torch.save(step, file)
    file.seek(0)
    loaded: GraphedTrainingStep = torch.load(file, weights_only=False)
    return loaded


def test_reset_captures_again(capturer: RecordingCapturer) -> None:
    step = graphed(small_network())
    run(step, batches(2, 2), {})
    step.reset()
    assert step.captured == []
    run(step, batches(2, 2), {})
    assert (capturer.captures, step.captured) == (2, [(2, 3, 16, 16)])


def test_a_host_read_is_named(capturer: RecordingCapturer) -> None:
    def curious_loss(logits: Tensor, masks: Tensor) -> Tensor:
        loss = bce_dice_loss(logits, masks)
        return loss if loss.item() > 0 else -loss

    model = small_network()
    step = GraphedTrainingStep(model, curious_loss, adamw(model))
    data = batches(2, 2)
    step(*data[0])
    before = state(model, step.optimizer)
    with pytest.raises(RuntimeError, match=r"cannot be captured in a CUDA graph.*_local_scalar_dense"):
        step(*data[1])
    assert_same(state(model, step.optimizer), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tensors_put_in_place_of_others_are_refused(capturer: RecordingCapturer) -> None:
    class Counting(nn.Module):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = small_network()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count = self.count + 1
            y: Tensor = self.layer(x)
            return y

    model = Counting()
    step = graphed(model)
    data = batches(2, 2)
    for count in (1, 2):
        step(*data[0])
        before = state(model, step.optimizer)
        with pytest.raises(RuntimeError, match="puts new tensors in place of parameters, buffers or states"):
            step(*data[1])
        assert_same(state(model, step.optimizer), before)
        assert model.count == count


@pytest.mark.parametrize("fails", [False, True], ids=["put-in-place", "and-read-on-the-host"])
def test_a_capture_that_is_given_up_leaves_memory_and_buffers_in_place(
    capturer: RecordingCapturer, fails: bool
) -> None:
    class Replacing(nn.Module):
        average: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = small_network()
            self.register_buffer("average", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            self.average.data = self.average.data + 1
            return y.abs() * float(y.detach().mean()) if fails else y

    model = Replacing()
    step = graphed(model)
    data = batches(2, 2)
    step(*data[0])
    address = model.average.data_ptr()
    with pytest.raises(RuntimeError, match="cannot be captured"):
        step(*data[1])
    assert model.average == 1
    assert model.average.data_ptr() == address


def test_targets_with_a_gradient_of_their_own_build_no_graph_from_step_to_step(capturer: RecordingCapturer) -> None:
    teacher, step = small_network(), graphed(small_network())
    for images, _ in batches(2, 2, 2, 2):
        step(images, torch.sigmoid(teacher(images)))
    assert capturer.replays == 3
    assert not any(x.requires_grad for kept in step._replays._inputs.values() for x in kept)


def test_added_layers_are_noticed(capturer: RecordingCapturer) -> None:
    model = small_network()
    assert isinstance(model, nn.Sequential)
    step = graphed(model)
    data = batches(2, 2, 2, 2)
    for images, target in data[:2]:
        step(images, target)
    model.append(nn.Tanh())
    step(*data[2])
    assert (capturer.runs, capturer.captures) == (2, 1)
    step(*data[3])
    assert (capturer.runs, capturer.captures) == (2, 2)


def test_added_parameters_of_the_optimiser_are_noticed(capturer: RecordingCapturer) -> None:
    step = graphed(small_network())
    data = batches(2, 2, 2)
    for images, target in data[:2]:
        step(images, target)
    step.optimizer.param_groups[0]["params"].append(nn.Parameter(torch.zeros(2)))
    step(*data[2])
    assert (capturer.runs, capturer.captures) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": bce_dice_loss}, TypeError, r"must be a torch\.nn\.Module, got function"),
        (
            {"model": nn.DataParallel(small_network())},
            TypeError,
            "one process on one device; the model is a DataParallel",
        ),
        ({"optimizer": "AdamW"}, TypeError, r"must be a torch\.optim\.Optimizer, got str"),
        (
            {"optimizer": torch.optim.Adagrad(small_network().parameters())},
            TypeError,
            "this Adagrad cannot be captured",
        ),
        ({"optimizer": torch.optim.SGD(small_network().parameters())}, TypeError, r"SGD\(\.\.\., fused=True\)"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be positive, got 0"),
        ({"max_shapes": -1}, ValueError, "max_shapes must be an integer of at least 0, got -1"),
        ({"max_shapes": 2.0}, ValueError, "max_shapes must be an integer of at least 0, got 2"),
    ],
    ids=["no module", "several devices", "no optimiser", "Adagrad", "SGD", "clip_norm", "max_shapes", "fraction"],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    model = small_network()
    given = {"model": model, "loss": bce_dice_loss, "optimizer": adamw(model), **arguments}
    with pytest.raises(error, match=message):
        GraphedTrainingStep(**given)


def test_bad_inputs(capturer: RecordingCapturer) -> None:
    step = graphed(small_network())
    with pytest.raises(TypeError, match="target must be a tensor, got list"):
        step(torch.rand(1, 3, 16, 16), [1.0])  # type: ignore[arg-type]


def test_without_a_gpu_steps_are_those_of_the_optimiser_as_it_is() -> None:
    model, other = small_network(), small_network()
    step = GraphedTrainingStep(model, bce_dice_loss, torch.optim.AdamW(model.parameters(), LEARNING_RATE))
    expected = PlainTraining(other, torch.optim.AdamW(other.parameters(), LEARNING_RATE))
    data = batches(2, 2, 2)
    assert_same(run(step, data, {}), run(expected, data, {}))
    assert step.captured == []
