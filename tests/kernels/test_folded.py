"""The folded network's kernels, interpreted, against their twins and against the plain steps."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from fastresunet_kernels import convolution, pyramid
from fastresunet_kernels.config import Config

from fastresunet import KerasResUNetPP, fold
from fastresunet.ops.backend import compute
from tests.folded_cases import NAMES, folded_case
from tests.inference.networks import hard_network
from tests.numerics import relative_difference


def check(name: str, channels: int) -> None:
    operation, operands = folded_case(name, channels, (18, 14))
    results, expected = (compute(backend, operation, *operands) for backend in ("triton", "torch"))
    pairs: Any = zip(results, expected, strict=True) if isinstance(expected, tuple) else [(results, expected)]
    for value, exact in pairs:
        assert value.shape == exact.shape
        assert not exact.numel() or relative_difference(value, exact) <= 1e-11


@pytest.mark.parametrize("name", NAMES)
def test_operations_in_float64(name: str) -> None:
    check(name, 16)


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("name", ["stride-2-beside", "upsampled-and-skip-beside", "pyramid"])
def test_windows(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(16, 16, 16, window_rows=rows)
    for launcher in (convolution, pyramid):
        monkeypatch.setattr(launcher, "choose", lambda layer, device: replace(config))
    check(name, 19)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (2, 3, 16, 24)),
        ({"num_classes": 5, "aspp_rates": (2, 40)}, (1, 3, 9, 16)),
        ({"network_class": KerasResUNetPP}, (1, 3, 8, 16)),
    ],
    ids=["batch2", "5-classes", "keras"],
)
def test_whole_network_in_float64(arguments: dict[str, Any], shape: tuple[int, ...]) -> None:
    network = hard_network(**arguments)
    image = torch.randn(shape, dtype=torch.float64)
    logits, expected = (fold(network, backend)(image) for backend in ("triton", "torch"))
    assert relative_difference(logits, expected) <= 1e-10


def test_new_weights_are_used() -> None:
    folded, other = (fold(hard_network(), "triton") for _ in range(2))
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    folded.warmup([image.shape])
    folded.load_state_dict(other.state_dict())
    assert torch.equal(folded(image), other(image))
    rounded = copy.deepcopy(folded).float()
    assert relative_difference(rounded(image.float()).double(), folded(image)) <= 1e-3
