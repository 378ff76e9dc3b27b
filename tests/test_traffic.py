"""Counts of launches, bytes and operations against counts by hand; and what the network costs by them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from benchmarks.recording import OUTSIDE, Record, recording
from benchmarks.traffic import FOLDED_GOAL, GOALS, NETWORKS, Totals, count, count_folded
from fastresunet.ops import Source, channel_statistics, conv

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="counts launches of compiled kernels, not of interpreted ones"
)


@pytest.fixture
def fake() -> Iterator[None]:
    """Make tensors without memory."""
    with FakeTensorMode():
        yield


def costs(records: list[Record]) -> list[tuple[int, int, int]]:
    """Return launches, bytes read and bytes written of each record."""
    return [(record.launches, record.read, record.written) for record in records]


# One tensor of 2x3x4x5 float32 is 480 bytes, a column of it (size 5) 20.
OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], object], list[tuple[int, int, int]]]] = {
    "sum of two": (lambda x, y: x + y, [(1, 960, 480)]),
    "twice the same": (lambda x, y: x * x, [(1, 480, 480)]),
    "expanded": (lambda x, y: x + y[0, 0, 0].expand_as(x), [(1, 500, 480)]),
    "slice": (lambda x, y: x[:1] + y[1:], [(1, 480, 240)]),
    "in place": (lambda x, y: x.add_(y), [(1, 960, 480)]),
    "views": (lambda x, y: x.permute(0, 2, 3, 1).unsqueeze(0)[..., 0].detach().split(1), []),
    "memory": (lambda x, y: (torch.empty_like(x), x.new_empty(7)), []),
    "no copy": (lambda x, y: x.contiguous().to(torch.float32), []),
    "copy": (lambda x, y: x.contiguous(memory_format=torch.channels_last), [(1, 480, 480)]),
    "copy over": (lambda x, y: x.copy_(y), [(1, 480, 480)]),
    "cast": (lambda x, y: x.bfloat16(), [(1, 480, 240)]),
    "zeros": (lambda x, y: torch.zeros_like(x), [(1, 0, 480)]),
    "fill": (lambda x, y: x.zero_(), [(1, 0, 480)]),
    "reduction": (lambda x, y: x.sum(), [(1, 480, 4)]),
    "concatenation": (lambda x, y: torch.cat([x, y]), [(1, 960, 960)]),
    "nothing": (lambda x, y: x.size(0) + x.dim(), []),
}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("name", OPERATIONS)
def test_ordinary_operations_by_hand(name: str) -> None:
    operation, expected = OPERATIONS[name]
    x, y = torch.empty(2, 3, 4, 5), torch.empty(2, 3, 4, 5)
    with recording() as records:
        operation(x, y)
    assert costs(records) == expected


@pytest.mark.usefixtures("fake")
def test_a_plain_convolution_by_hand() -> None:
    image, output, weight = 2 * 3 * 8 * 8 * 4, 2 * 16 * 8 * 8 * 4, 16 * 3 * 9 * 4
    x, layer = torch.empty(2, 3, 8, 8, requires_grad=True), nn.Conv2d(3, 16, 3, padding=1)
    with recording() as records:
        y = layer(x)
        y.backward(torch.empty_like(y))
    flop = 2 * 2 * 16 * 8 * 8 * 27
    assert costs(records) == [
        (2, image + weight + output + 64, 2 * output),
        (3, (output + weight) + (output + image) + output, image + weight + 64),
    ]
    assert [(record.flop, record.backward) for record in records] == [(flop, False), (2 * flop, True)]


@pytest.mark.usefixtures("fake")
def test_a_plain_normalisation_by_hand() -> None:
    image, vector = 2 * 3 * 8 * 8 * 4, 3 * 4
    x, norm = torch.empty(2, 3, 8, 8, requires_grad=True), nn.BatchNorm2d(3)
    with recording() as records:
        y = norm(x)
        y.backward(torch.empty_like(y))
        norm.eval()(x)
    assert [cost for record, cost in zip(records, costs(records), strict=True) if "batch_norm" in record.kernel] == [
        (2, 2 * image + 4 * vector, image + 2 * vector),
        (2, 4 * image + 5 * vector, image + 2 * vector),
        (1, image + 4 * vector, image),
    ]


@pytest.mark.usefixtures("fake")
def test_a_fused_convolution_by_hand() -> None:
    image, output, weight = 2 * 16 * 8 * 8 * 4, 2 * 32 * 8 * 8 * 4, 32 * 16 * 9 * 4
    affine, bias = 3 * 2 * 16 * 4, 32 * 4
    x = torch.empty(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(16, 32, 3)
    with recording(nn.Sequential(layer)) as records:
        source = Source(x, torch.empty(3, 2, 16), relu=True)
        conv([source], layer.weight, layer.bias, statistics=False, backend="triton")
    assert [(record.kernel, record.layer, record.block) for record in records] == [
        ("pack_weights_kernel", "0", "0"),
        ("forward_kernel", "0", "0"),
    ]
    assert costs(records) == [(1, weight, weight), (1, image + affine + weight + bias, output)]
    assert [record.flop for record in records] == [0, 2 * 2 * 32 * 8 * 8 * 16 * 9]


@pytest.mark.usefixtures("fake")
def test_operations_inside_custom_operations_are_counted() -> None:
    x = torch.empty(2, 16, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.empty(32, 16, 3, 3, requires_grad=True)
    with recording() as records:
        channel_statistics(x)
    assert {record.kernel.partition(".")[0] for record in records} == {"aten"}
    assert sum(record.read for record in records) >= 2 * x.nbytes  # mean, then deviations from it
    with recording() as records:
        y = conv([Source(x)], weight, backend="torch").data
        forward = len(records)
        y.backward(torch.empty_like(y))
    assert "aten.convolution" in [record.kernel for record in records[:forward]]
    assert not any(record.backward for record in records[:forward])
    assert "aten.convolution_backward" in [record.kernel for record in records[forward:]]
    assert all(record.backward for record in records[forward:])


@pytest.mark.usefixtures("fake")
def test_sums_of_gradients_are_counted_and_first_gradients_are_free() -> None:
    x, weight = torch.empty(100), torch.empty(100, requires_grad=True)
    with recording() as records:
        ((weight * x) + (weight * x)).backward(torch.empty(100))
    assert [(record.kernel, record.backward) for record in records] == [
        *[("aten.mul", False)] * 2,
        ("aten.add", False),
        *[("aten.mul", True)] * 2,
        ("aten.add", True),
    ]
    with recording() as records:
        F.relu(weight).backward(torch.empty(100))
    assert [record.kernel for record in records] == ["aten.relu", "aten.threshold_backward", "aten.add_"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_is_counted_forward_and_backward(name: str) -> None:
    records = count(NETWORKS[name], True, torch.float32, 2, 32)
    blocks = {"c1", "c2", "c3", "c4", "b1", "d1", "d2", "d3", "aspp", "output", OUTSIDE}
    for backward in (False, True):
        assert {record.block for record in records if record.backward == backward} == blocks
    assert sum(record.launches for record in records if record.block == OUTSIDE) < 12


def test_every_convolution_has_a_name() -> None:
    records = count(NETWORKS["FastResUNetPP"], True, torch.float32, 2, 32)
    products = [record for record in records if record.flop]
    layers = [{record.layer for record in products if record.backward == backward} for backward in (False, True)]
    assert layers[0] == layers[1]
    assert not [record.kernel for record in products if not record.layer and record.kernel != "aten.mm"]
    assert {"c1.c1.0", "d3.r1.c2.0", "aspp.c1.0 to aspp.c4.0", "output"} <= layers[0]


def test_a_count_does_not_depend_on_memory() -> None:
    """Fake tensors give the counts of real ones."""
    records = count(NETWORKS["FastResUNetPP"], False, torch.float32, 2, 16)
    model, images = NETWORKS["FastResUNetPP"]().eval(), torch.rand(2, 3, 16, 16)
    with recording(model) as real, torch.no_grad():
        model(images)
    assert real == records


def test_the_plain_network_has_its_published_arithmetic() -> None:
    records = count(NETWORKS["ResUNetPP, eager"], False, torch.float32, 8, 256)
    assert Totals.of(records, 8).gflop == pytest.approx(2 * 15.669, rel=1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_bfloat16_at_256_pixels_meets_its_goals(training: bool) -> None:
    total = Totals.of(count(NETWORKS["FastResUNetPP"], training, torch.bfloat16, 8, 256), 8)
    assert total.launches <= GOALS[training].launches
    assert total.gigabytes <= GOALS[training].gigabytes


def test_the_folded_network_at_256_pixels_meets_its_goals() -> None:
    records = count_folded(torch.bfloat16, 8, 256)
    total = Totals.of(records, 8)
    assert total.launches <= FOLDED_GOAL.launches
    assert total.gigabytes <= FOLDED_GOAL.gigabytes
    assert [record.kernel for record in records if not record.kernel.endswith("_kernel")] == ["aten.clone"]
