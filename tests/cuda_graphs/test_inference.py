"""Inference from graphs gives what the network gives, whatever happens to its parameters."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastresunet import FastResUNetPP, GraphedInference, ResUNetPP, fold
from fastresunet.inference import FoldedResUNetPP, network
from fastresunet.inference.fused import fused_logits

from .recorder import RecordingCapturer
from .training_cases import real_network, small_network

FILTERS = (8, 8, 8, 8, 8)


def images(count: int = 1, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side)


def assert_equal_inference(graphed: GraphedInference, passes: int = 3, count: int = 1) -> None:
    for _ in range(passes):
        x = images(count)
        torch.testing.assert_close(graphed(x), graphed.model(x), rtol=0, atol=0)


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let folded networks on the CPU take the path of the kernels, with packed weights, computed by PyTorch."""
    monkeypatch.setattr(network, "takes_kernels", lambda backend, device: True)
    monkeypatch.setattr(network, "fused_logits", lambda model, x, weights, _: fused_logits(model, x, weights, "torch"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResUNetPP(filters=FILTERS).eval(),
        lambda: FastResUNetPP(filters=FILTERS).eval(),
        lambda: fold(FastResUNetPP(filters=FILTERS)),
    ],
    ids=["plain", "fused", "folded"],
)
def test_networks(capturer: RecordingCapturer, make: Callable[[], nn.Module]) -> None:
    graphed = GraphedInference(make())
    assert_equal_inference(graphed)
    assert_equal_inference(graphed, count=2)
    assert graphed.captured == [(1, 3, 16, 16), (2, 3, 16, 16)]
    assert capturer.replays == 4
    assert not graphed(images()).requires_grad


def test_folded_network_with_packed_weights(capturer: RecordingCapturer, with_kernels: None) -> None:
    folded = fold(real_network())
    graphed = GraphedInference(folded)
    assert_equal_inference(graphed)
    packed = folded.packed
    assert packed is not None
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.mul_(1.1)
    x = images()
    # The graph first: a pass of the network itself would pack the weights again.
    found = graphed(x)
    torch.testing.assert_close(found, folded(x), rtol=0, atol=0)
    assert (capturer.captures, folded.packed) == (1, packed)

    other = fold(FastResUNetPP(filters=FILTERS))
    folded.load_state_dict(other.state_dict())
    torch.testing.assert_close(graphed(x), other(x), rtol=0, atol=0)
    assert not torch.equal(graphed(x), found)
    assert capturer.captures == 1

    graphed.load_state_dict({f"model.{name}": 0.5 * value for name, value in other.state_dict().items()})
    torch.testing.assert_close(graphed(x), folded(x), rtol=0, atol=0)
    assert capturer.captures == 1


def test_inference_mode_keeps_packed_weights_that_can_be_written(
    capturer: RecordingCapturer, with_kernels: None
) -> None:
    folded = fold(real_network())
    graphed = GraphedInference(folded)
    with torch.inference_mode():
        assert_equal_inference(graphed)
    with torch.no_grad():
        next(folded.parameters()).mul_(2)
    assert_equal_inference(graphed)
    assert capturer.captures == 1


@pytest.mark.parametrize(
    ("change", "captures"),
    [
        pytest.param(lambda model: model.double().float(), 2, id="moved"),
        pytest.param(lambda model: model.train().eval(), 1, id="to training mode and back"),
        pytest.param(lambda model: model.train(), 2, id="training mode"),
        pytest.param(lambda model: model.load_state_dict(small_network().state_dict()), 1, id="loaded in place"),
        pytest.param(
            lambda model: model.load_state_dict(small_network().state_dict(), assign=True), 2, id="loaded by assignment"
        ),
        pytest.param(lambda model: torch.use_deterministic_algorithms(False), 2, id="determinism"),
        pytest.param(lambda model: model[1].register_forward_pre_hook(lambda m, x: (x[0] + 1,)), 2, id="hook"),
    ],
)
def test_changes(capturer: RecordingCapturer, change: Callable[[nn.Sequential], object], captures: int) -> None:
    model = small_network().eval()
    graphed = GraphedInference(model)
    assert_equal_inference(graphed)
    change(model)
    twin = copy.deepcopy(model)
    for _ in range(3):
        x = images()
        torch.testing.assert_close(graphed(x), twin(x).detach(), rtol=0, atol=0)
    for found, expected in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert capturer.captures == captures


def test_autocast_around_the_call_is_part_of_the_graph(capturer: RecordingCapturer) -> None:
    graphed = GraphedInference(real_network().eval())
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            assert_equal_inference(graphed)
            assert graphed(images()).dtype == dtype
    assert capturer.captures == 2


def test_no_graph_reads_casts_that_autocast_remembers(capturer: RecordingCapturer) -> None:
    model = small_network().eval()
    graphed, x = GraphedInference(model), images()
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        assert_equal_inference(graphed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(graphed(x), model(x).detach(), rtol=0, atol=0)
    assert capturer.captures == 1


def test_outputs_are_not_overwritten(capturer: RecordingCapturer) -> None:
    graphed = GraphedInference(small_network().eval())
    outputs = [(output := graphed(images()), output.clone()) for _ in range(4)]
    assert all(torch.equal(output, before) for output, before in outputs)


def test_memory_formats_have_graphs_of_their_own(capturer: RecordingCapturer) -> None:
    graphed = GraphedInference(small_network().eval())
    for x in (images(2), images(2).to(memory_format=torch.channels_last), images(2).transpose(2, 3), images(2).flip(3)):
        for _ in range(2):
            torch.testing.assert_close(graphed(x), graphed.model(x))
    assert capturer.captures == 2


def test_more_shapes_than_allowed_are_computed_eagerly(capturer: RecordingCapturer) -> None:
    graphed = GraphedInference(small_network().eval(), max_shapes=1)
    assert_equal_inference(graphed)
    with pytest.warns(UserWarning, match="max_shapes=1 shapes, which are 1x3x16x16; others, such as 2x3x16x16"):
        assert_equal_inference(graphed, count=2)
    assert capturer.captures == 1


def reload(graphed: GraphedInference) -> GraphedInference:
    file = io.BytesIO()
    torch.save(graphed, file)
    file.seek(0)
    loaded: GraphedInference = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("duplicate", [copy.deepcopy, reload], ids=["deepcopy", "pickle"])
def test_copies_begin_without_graphs(
    capturer: RecordingCapturer, with_kernels: None, duplicate: Callable[[GraphedInference], GraphedInference]
) -> None:
    graphed = GraphedInference(fold(real_network()))
    assert_equal_inference(graphed)
    other = duplicate(graphed)
    assert other.captured == []
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert_equal_inference(other)
    assert_equal_inference(graphed)
    assert not torch.equal(other(images()), graphed(images()))


def test_without_a_gpu_every_pass_is_eager() -> None:
    graphed = GraphedInference(small_network().eval())
    assert_equal_inference(graphed)
    assert graphed.captured == []


def test_bad_arguments(capturer: RecordingCapturer) -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
        GraphedInference(fold)  # type: ignore[arg-type]
    graphed = GraphedInference(small_network())
    with pytest.raises(TypeError, match=r"images must be a tensor \(N, C, H, W\), got list"):
        graphed([1.0])
    with pytest.raises(ValueError, match="Identity has no parameters or buffers"):
        GraphedInference(nn.Identity())(images())

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 1, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), x

    with pytest.raises(TypeError, match="must return one tensor, got tuple"):
        GraphedInference(Pair())(images())


def test_folded_is_found_wherever_it_is(capturer: RecordingCapturer, with_kernels: None) -> None:
    folded = fold(real_network())
    graphed = GraphedInference(nn.Sequential(folded, nn.Sigmoid()))
    assert_equal_inference(graphed)
    assert isinstance(folded, FoldedResUNetPP)
    with torch.no_grad():
        folded.head.bias.add_(1)
        next(folded.stem.parameters()).mul_(3)
    x = images()
    found = graphed(x)
    torch.testing.assert_close(found, folded(x).sigmoid(), rtol=0, atol=0)
    assert capturer.captures == 1
