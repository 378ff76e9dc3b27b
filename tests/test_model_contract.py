"""FastResUNetPP as a drop-in module: state, copies, conversions, and errors that say what is expected."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from fastresunet import FastResUNetPP, ResUNetPP

SMALL: dict[str, Any] = {"filters": (8, 8, 16, 16, 16)}


def test_checkpoints_load_strictly_both_ways() -> None:
    fast, plain = FastResUNetPP(), ResUNetPP()
    assert list(fast.state_dict()) == list(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert fast.state_dict()[name].shape == tensor.shape
        assert fast.state_dict()[name].dtype == tensor.dtype
    fast.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(fast.state_dict(), strict=True)
    assert all(map(torch.equal, fast.state_dict().values(), plain.state_dict().values()))


def test_same_random_initialisation_as_the_plain_network() -> None:
    torch.manual_seed(3)
    fast = FastResUNetPP(**SMALL)
    torch.manual_seed(3)
    plain = ResUNetPP(**SMALL)
    assert all(map(torch.equal, fast.parameters(), plain.parameters()))


def through_pickle(model: FastResUNetPP) -> FastResUNetPP:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: FastResUNetPP) -> FastResUNetPP:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save], ids=lambda f: f.__name__)
def test_copies_compute_the_same(duplicate: Any) -> None:
    model = FastResUNetPP(**SMALL).eval()
    twin = duplicate(model)
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(model(image), twin(image))
    assert twin.backend == model.backend
    twin.output.bias.data += 1
    assert not torch.equal(model(image), twin(image))


def test_weights_only_checkpoint() -> None:
    file = io.BytesIO()
    torch.save(FastResUNetPP(**SMALL).state_dict(), file)
    file.seek(0)
    ResUNetPP(**SMALL).load_state_dict(torch.load(file, weights_only=True))


def test_channels_last_image_gives_the_same_logits() -> None:
    model = FastResUNetPP(**SMALL).eval()
    image = torch.randn(2, 3, 16, 24)
    assert torch.equal(model(image), model(image.contiguous(memory_format=torch.channels_last)))


def test_logits_are_contiguous() -> None:
    model = FastResUNetPP(num_classes=4, **SMALL)
    assert model(torch.randn(2, 3, 16, 24)).is_contiguous()
    assert model(torch.randn(2, 3, 17, 24)).is_contiguous()


def test_synchronised_batch_norm_without_processes_is_batch_norm() -> None:
    model = FastResUNetPP(**SMALL)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert any(isinstance(m, nn.SyncBatchNorm) for m in converted.modules())
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(image), converted(image))
    assert list(model.state_dict()) == list(converted.state_dict())


def test_evaluation_leaves_the_running_statistics_alone() -> None:
    model = FastResUNetPP(**SMALL).eval()
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(2, 3, 16, 16))
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_training_step_is_deterministic() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        model = FastResUNetPP(**SMALL)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 32, 32)).square().mean().backward()
            optimizer.step()
        states.append(model.state_dict())
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def test_single_value_per_channel_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="more than one value per channel"):
        FastResUNetPP(**SMALL).train()(torch.randn(1, 3, 8, 8))
    FastResUNetPP(**SMALL).eval()(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(3, 16, 16), ValueError, r"\(N, 3, H, W\).* got shape \(3, 16, 16\)"),
        (torch.zeros(1, 4, 16, 16), ValueError, r"\(N, 3, H, W\).* got shape \(1, 4, 16, 16\)"),
        (torch.zeros(1, 3, 7, 16), ValueError, r"at least 8, got shape \(1, 3, 7, 16\)"),
        (torch.zeros(0, 3, 16, 16), ValueError, r"got shape \(0, 3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), TypeError, "torch.uint8; convert it"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.float64), TypeError, "torch.float64, the model torch.float32"),
        (torch.zeros(1, 3, 16, 16, device="meta"), ValueError, "is on meta, the model on cpu"),
        ("image.png", TypeError, "got str"),
    ],
    ids=["rank", "channels", "too-small", "no-sample", "integer", "dtype", "device", "type"],
)
def test_bad_images(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FastResUNetPP(**SMALL)(image)


@pytest.mark.parametrize("network", [FastResUNetPP, ResUNetPP])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels must be a positive integer, got 0"),
        ({"num_classes": 1.5}, TypeError, "num_classes must be a positive integer, got 1.5"),
        ({"filters": (16, 32)}, ValueError, r"filters must hold 5 numbers .*, got 2: \(16, 32\)"),
        ({"filters": (8, 8, 8, 8, -1)}, ValueError, r"filters\[4\] must be a positive integer, got -1"),
        ({"filters": 16}, TypeError, "filters must be a sequence of positive integers, got 16"),
        ({"se_reduction": 32}, ValueError, "se_reduction=32 must not exceed the smallest of filters"),
        ({"aspp_rates": ()}, ValueError, "aspp_rates must hold at least one dilation"),
        ({"aspp_rates": (1, True)}, TypeError, r"aspp_rates\[1\] must be a positive integer, got True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_constructor_arguments(
    network: type[ResUNetPP], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        network(**arguments)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="'cudnn'"):
        FastResUNetPP(**SMALL, backend="cudnn")  # type: ignore[arg-type]


def test_triton_backend_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="needs Triton, which is not installed: pip install triton"):
        FastResUNetPP(**SMALL, backend="triton")


def test_triton_backend_on_the_cpu() -> None:
    model = FastResUNetPP(**SMALL, backend="triton")
    with pytest.raises(RuntimeError, match="needs tensors on a GPU, got cpu"):
        model(torch.randn(1, 3, 16, 16))
