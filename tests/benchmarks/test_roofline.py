"""The model against a count by hand; layers of both networks; measured times beside it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.attribution import FAST, PLAIN, Part, count_plain, parts
from benchmarks.gpus import DATA_SHEETS, DataSheet, data_sheet_of
from benchmarks.recording import OUTSIDE, Record
from benchmarks.roofline import Model, bound, describe
from benchmarks.traffic import NETWORKS, Totals, count
from tests.benchmarks.conftest import report, result

SHEET = DataSheet("a GPU", "GPU", "a data sheet", 1000, {"bf16": 100})


def record(launches: int, read: int, written: int, flop: int) -> Record:
    return Record("kernel", "layer", "block", False, launches, read, written, flop)


def test_a_launch_takes_the_longer_of_bytes_and_products() -> None:
    # 1 MB at 1000 GB/s takes 1 us; 200 MFLOP at 100 TFLOP/s take 2 us.
    moving, computing = record(1, 600_000, 400_000, 0), record(2, 500_000, 500_000, 200_000_000)
    found = bound([moving, computing], SHEET, "bf16", launch_microseconds=0.5)
    assert (found.memory, found.products, found.floor, found.launches) == (2, 2, 3, 1.5)
    assert found.total == 4.5
    assert bound([computing], SHEET, "bf16", 5).binding == "launches"
    assert bound([computing], SHEET, "bf16", 0.1).binding == "products"


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_every_launch_belongs_to_one_part(training: bool) -> None:
    found = parts(training, torch.bfloat16, 2, 32)
    for column, name in enumerate((FAST, PLAIN)):
        together = [record for lists in found.values() for record in lists[column]]
        expected = count(NETWORKS[name], training, torch.bfloat16, 2, 32)
        assert Totals.of(together, 2) == pytest.approx(Totals.of(expected, 2))
    layers = [part for part in found if part.layer]
    # Both networks have every layer, by the same name.
    assert all(all(found[part]) for part in layers)
    assert Part("d1", "d1.r1.c1.2") in layers
    assert Part("b1", "b1.c1.0 to b1.c4.0") in layers


def test_a_plain_layer_has_its_normalisation_and_pooling() -> None:
    records = count_plain(False, torch.float32, 1, 32)
    kernels = [record.kernel for record in records if record.layer == "d1.a1.g_conv.2"]
    assert kernels == ["aten.native_batch_norm", "aten.relu", "aten.convolution", "aten.max_pool2d_with_indices"]
    assert not any(record.kernel == "aten.convolution" for record in records if not record.layer)
    assert {record.block for record in records} <= {
        *["c1", "c2", "c3", "c4", "b1", "d1", "d2", "d3", "aspp", "output"],
        OUTSIDE,
    }


def test_data_sheets_are_found_by_the_name_of_the_driver() -> None:
    assert data_sheet_of("NVIDIA H100 80GB HBM3") == DATA_SHEETS["h100"]
    assert data_sheet_of("NVIDIA L40S") == DATA_SHEETS["l40s"]
    assert data_sheet_of("a processor, 2 threads") is None


def test_measured_times_stand_beside_those_modelled_on_the_same_gpu() -> None:
    model = Model(DATA_SHEETS["h100"], batch=2, size=32)
    network = [
        result("FastResUNetPP", [0.003], batch=2, size=32),
        result("FastResUNetPP + CUDA graph", [0.001], batch=2, size=32),
        result("eager", [0.002], batch=2, size=32),
    ]
    layer = {"group": "layer", "subject": "b1.c1.0 conv_norm_sum", "batch": 2, "size": 32}
    measured = report([*network, result("eager", [0.004], **layer)], "NVIDIA H100 PCIe")
    total = model.total(measured)
    assert (total.measured_fast, total.measured_plain) == (1, 2)
    rows = {str(row.part): row.measured_plain for row in model.rows(measured)}
    assert rows.pop("b1.c1.0 to b1.c4.0") == 4
    assert set(rows.values()) == {None}
    assert model.total(report(network, "NVIDIA A100")).measured_fast is None


def test_it_says_that_it_is_a_model() -> None:
    text = describe(Model(DATA_SHEETS["a100"]))
    assert text.startswith("MODELLED, not measured")
    assert DATA_SHEETS["a100"].source in text
