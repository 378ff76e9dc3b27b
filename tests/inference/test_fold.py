"""The folded network against the one it was folded from."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.folding import PARTS, part_of, work_of_modules
from fastresunet import FastResUNetPP, KerasResUNetPP, ResUNetPP, fold
from fastresunet.inference import FoldedResUNetPP, count_macs
from fastresunet.inference.steps import Features, PlanePyramid, Pyramid
from tests.numerics import assert_as_close_as_reference, hurtful_image, relative_difference

from .networks import hard_network, mild_network


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (2, 3, 32, 48)),
        ({}, (1, 3, 16, 16)),
        ({}, (2, 3, 8, 8)),
        ({}, (1, 3, 8, 40)),
        ({}, (1, 3, 33, 9)),
        ({"in_channels": 1, "num_classes": 3}, (2, 1, 24, 17)),
        ({"num_classes": 21}, (1, 3, 24, 40)),
        ({"in_channels": 5, "filters": (9, 17, 8, 20, 31), "se_reduction": 4}, (2, 5, 16, 24)),
        ({"aspp_rates": (2, 40)}, (2, 3, 24, 24)),
        ({"aspp_rates": (40, 2), "num_classes": 5}, (2, 3, 24, 24)),
        ({"aspp_rates": (40,)}, (2, 3, 24, 24)),
        ({"aspp_rates": (3, 1, 3, 3)}, (2, 3, 40, 16)),
        ({"aspp_rates": (3, 1, 3, 3), "num_classes": 4}, (2, 3, 40, 16)),
        ({"filters": (16, 32, 64, 128, 256)}, (1, 3, 32, 40)),
    ],
    ids=[
        "batch2",
        "batch1",
        "bridge-of-one-pixel",
        "bridge-of-one-row",
        "padded",
        "gray-3-classes",
        "21-classes",
        "odd-channels",
        "rate-beyond-map",
        "first-rate-beyond-map",
        "only-rate-beyond-map",
        "repeated-rates",
        "repeated-rates-many-classes",
        "default-filters",
    ],
)
def test_float64(arguments: dict[str, Any], shape: tuple[int, ...]) -> None:
    network = hard_network(**arguments)
    fast = FastResUNetPP(**{"filters": network.filters, **arguments}).double().eval()
    fast.load_state_dict(network.state_dict())
    image = torch.randn(shape, dtype=torch.float64)
    height, width = shape[2:]
    padded = F.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate")
    expected = network(padded)[:, :, :height, :width]
    for model in (network, fast):
        logits = fold(model)(image)
        assert logits.dtype == torch.float64
        assert logits.is_contiguous()
        assert relative_difference(logits, expected) <= 1e-10


@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (1, 3, 8, 8), (1, 3, 8, 40), (2, 3, 33, 9)])
def test_networks_of_keras(shape: tuple[int, ...]) -> None:
    network = hard_network(network_class=KerasResUNetPP)
    image = torch.randn(shape, dtype=torch.float64)
    logits = fold(network)(image)
    assert relative_difference(logits, network(image)) <= 1e-10
    state = {name: value for name, value in network.state_dict().items() if name != "same_padding"}
    symmetric = ResUNetPP(filters=network.filters, aspp_rates=network.aspp_rates).double()
    symmetric.load_state_dict(state)
    assert relative_difference(fold(symmetric)(image), logits) > 1e-5


@pytest.mark.parametrize("kind", ["normal", "offset", "negative", "ties", "strided"])
def test_float32_is_within_a_hundred_thousandth_of_the_range(kind: str) -> None:
    network = mild_network(filters=(16, 32, 64, 128, 256))
    image = hurtful_image((1, 3, 64, 64), kind, torch.float32)
    exact = network(image.double()).detach()
    folded = fold(network.float())(image)
    assert float((folded - exact).abs().max()) <= 1e-5 * float(exact.max() - exact.min())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["normal", "negative", "ties", "strided"])
@pytest.mark.parametrize("num_classes", [1, 5])
def test_rounds_no_worse_than_the_reference(dtype: torch.dtype, kind: str, num_classes: int) -> None:
    network = mild_network(dtype, num_classes=num_classes)
    exact = copy.deepcopy(network).double()
    image = hurtful_image((2, 3, 32, 32), kind, dtype)
    folded = fold(network)(image)
    assert folded.dtype == dtype
    assert_as_close_as_reference(folded, network(image), exact(image.double()), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    network = mild_network(torch.float32)
    exact = copy.deepcopy(network).double()
    image = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype):
        folded, same = fold(network)(image), network(image)
    assert_as_close_as_reference(folded, same, exact(image.double()), dtype)


def test_a_network_in_train_mode_is_folded_with_its_running_statistics_and_left_as_it_is() -> None:
    network = hard_network().train()
    network(torch.randn(2, 3, 16, 16, dtype=torch.float64))
    before = copy.deepcopy(network.state_dict())
    folded = fold(network)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    image = torch.randn(1, 3, 16, 24, dtype=torch.float64)
    assert relative_difference(folded(image), network.eval()(image)) <= 1e-10


def test_updates_of_the_original_do_not_reach_the_folded_network() -> None:
    network = hard_network()
    folded = fold(network)
    image = torch.randn(1, 3, 16, 24, dtype=torch.float64)
    before = folded(image)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.mul_(2)
    assert torch.equal(folded(image), before)
    assert relative_difference(fold(network)(image), network(image)) <= 1e-10
    assert not torch.equal(fold(network)(image), before)


def test_no_memory_is_shared_with_the_original() -> None:
    network = hard_network()
    own = {value.untyped_storage().data_ptr() for value in network.state_dict().values()}
    assert not own & {value.untyped_storage().data_ptr() for value in fold(network).state_dict().values()}


def test_copies_pickles_and_state_dicts_compute_the_same() -> None:
    network = hard_network()
    folded = fold(network)
    image = torch.randn(1, 3, 16, 24, dtype=torch.float64)
    expected = folded(image)
    stream = io.BytesIO()
    torch.save(folded, stream)
    stream.seek(0)
    other = fold(hard_network())
    assert not torch.equal(other(image), expected)
    other.load_state_dict(folded.state_dict())
    for twin in (copy.deepcopy(folded), torch.load(stream, weights_only=False), other):
        assert torch.equal(twin(image), expected)


def test_nothing_requires_a_gradient_and_train_mode_changes_nothing() -> None:
    with torch.inference_mode():
        folded = fold(hard_network())
    image = torch.randn(1, 3, 16, 24, dtype=torch.float64, requires_grad=True)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    logits = folded(image)
    assert torch.equal(folded.train()(image), logits)
    logits.sum().backward()
    assert image.grad is not None


def test_full_graph_under_torch_compile_for_changing_sizes() -> None:
    torch.compiler.reset()
    folded = fold(mild_network(torch.float32, aspp_rates=(1,)))
    compiled = torch.compile(folded, fullgraph=True, backend="aot_eager")
    for shape in ((1, 3, 16, 24), (2, 3, 33, 20)):
        image = torch.randn(shape)
        assert relative_difference(compiled(image), folded(image)) <= 1e-5


def test_taps_outside_the_image_are_left_out() -> None:
    weights = [(rate, torch.randn(2, 4, 3, 3, dtype=torch.float64)) for rate in (1, 9)]
    for _, weight in weights[1:]:
        weight[:, :, 1, 1] = 0
    x = torch.randn(1, 4, 6, 12, dtype=torch.float64)
    planes, dilated = (kind(weights, torch.zeros(2, dtype=torch.float64)) for kind in (PlanePyramid, Pyramid))
    expected = sum(F.conv2d(x, weight, padding=rate, dilation=rate) for rate, weight in weights)
    work = []
    for pyramid in (planes, dilated):
        assert torch.allclose(pyramid(Features(x)), expected, atol=1e-12)  # type: ignore[arg-type]
        count = count_macs(_OnFeatures(pyramid), x)
        work.append((count.inside + count.padded) / (x.numel() * 2))
    # Rate 9 reaches no other row of 6: two of its taps stay, and in the dilated convolution the centre of weight 0.
    assert work == [9 + 2, 9 + 3]


class _OnFeatures(nn.Module):
    def __init__(self, pyramid: nn.Module) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.pyramid(Features(x))
        return result


def test_work_at_256() -> None:
    network = ResUNetPP().eval()
    image = torch.rand(1, 3, 256, 256)
    count, published = count_macs(fold(network), image), count_macs(network, image)
    assert published.inside + published.padded == pytest.approx(15.669e9, rel=1e-4)
    assert count.inside <= 11.6e9
    assert count.inside + count.padded <= 12.2e9


def test_work_of_the_parts_adds_up() -> None:
    network = ResUNetPP().eval()
    image = torch.rand(1, 3, 64, 64)
    for position, model in enumerate((network, fold(network))):
        work = work_of_modules(model, image)
        parts = {name: part_of(work, *modules[position]) for name, modules in PARTS.items()}
        total = parts.pop("all")
        assert total.macs == count_macs(model, image).inside == sum(part.macs for part in parts.values())
        # What is not in a part is the change of the image's layout and the copy of the logits.
        assert 0 <= total.launches - sum(part.launches for part in parts.values()) <= 2


def test_count_of_single_operations() -> None:
    image = torch.rand(2, 3, 5, 7)
    # Of 5 rows and 3 taps 13 meet the image, of 7 columns and 3 taps 19.
    count = count_macs(nn.Conv2d(3, 4, 3, padding=1), image)
    assert (count.inside, count.inside + count.padded) == (2 * 3 * 4 * 13 * 19, 2 * 3 * 4 * 15 * 21)
    # Rows 0, 2, 4 of stride 2: 2 + 3 + 2 taps; columns 0, 2, 4, 6: 2 + 3 + 3 + 2.
    assert count_macs(nn.Conv2d(3, 4, 3, stride=2, padding=1), image).inside == 2 * 3 * 4 * 7 * 10
    # Each of 5 x 7 pixels feeds 4 x 4 results, but for the border's that lie outside.
    assert count_macs(nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), image).inside == 2 * 3 * 4 * 18 * 26
    assert count_macs(nn.Linear(7, 11), image).inside == 2 * 3 * 5 * 7 * 11
    with torch.inference_mode():
        assert count_macs(nn.Conv2d(3, 4, 1), image).inside == 2 * 3 * 4 * 35


def test_wrong_images_are_named() -> None:
    folded: FoldedResUNetPP = fold(hard_network(torch.float32))
    with pytest.raises(TypeError, match="got ndarray"):
        folded(torch.rand(1, 3, 16, 16).numpy())
    with pytest.raises(TypeError, match=r"got dtype torch.uint8; convert it, e.g. x.float\(\) / 255"):
        folded(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\) with H and W of at least 8, got shape \(1, 4, 16, 16\)"):
        folded(torch.rand(1, 4, 16, 16))
    with pytest.raises(ValueError, match=r"got shape \(1, 3, 7, 16\)"):
        folded(torch.rand(1, 3, 7, 16))
    with pytest.raises(TypeError, match=r"the image is torch.float64, the model torch.float32"):
        folded(torch.rand(1, 3, 16, 16, dtype=torch.float64))
