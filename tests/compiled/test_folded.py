"""The folded network's operations, compiled: sides, signs, affines of all samples, pyramids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastresunet_kernels.choice import forced, recorded
from fastresunet_kernels.config import Config, Layer, candidates
from fastresunet_kernels.launch import observed
from fastresunet_kernels.launchers import LAUNCHERS

from fastresunet.ops import torch_backend
from tests.compiled.test_configs import described
from tests.compiled.twins import assert_close
from tests.folded_cases import NAMES, cast, folded_case

# What only a folded pass has: a side, a signed maximum, an affine of all samples at an upsampled source, branches.
CONFIGURED = ["upsampled-and-skip-beside", "signed-maximum", "two-sources", "pyramid"]
# Blocks of channels that are complete in some configurations and not in others, and wide enough for every one.
CHANNELS = 80


def check(name: str, channels: int, dtype: torch.dtype) -> None:
    operation, operands = folded_case(name, channels)
    twin: Any = getattr(torch_backend, operation)
    results: list[Any] = [
        function(*cast(operands, kind))
        for kind, function in ((dtype, LAUNCHERS[operation]), (dtype, twin), (torch.float64, twin))
    ]
    result, plain, exact = (value if isinstance(value, tuple) else (value,) for value in results)
    assert_close(result, plain, exact, dtype, 18 * channels)


@pytest.mark.parametrize("name", NAMES)
def test_folded(architecture: int, name: str) -> None:
    check(name, 16, torch.bfloat16)


@pytest.mark.parametrize("name", ["upsampled-and-skip-beside", "pyramid"])
def test_folded_with_odd_channels(architecture: int, name: str) -> None:
    check(name, 21, torch.bfloat16)


def test_folded_in_float32(architecture: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check("upsampled-and-skip-beside", 32, torch.float32)


def layer_of(name: str) -> Layer:
    """Return what a case's configuration is chosen by; nothing is launched."""
    operation, operands = folded_case(name, CHANNELS)
    with recorded() as layers, observed(lambda seen: False):
        LAUNCHERS[operation](*cast(operands, torch.bfloat16))
    (layer,) = set(layers)
    return layer


def selectable() -> list[Any]:
    layers = {name: layer_of(name) for name in CONFIGURED}
    return [
        pytest.param(name, layer, config, id=f"{name}-{described(config)}")
        for name, layer in layers.items()
        for config in candidates(layer)
    ]


@pytest.mark.parametrize(("name", "layer", "config"), selectable())
def test_folded_in_every_configuration(architecture: int, name: str, layer: Layer, config: Config) -> None:
    with forced({layer: config}):
        # What is shown last is asked first, and answers nothing.
        with recorded() as layers:
            check(name, CHANNELS, torch.bfloat16)
        assert set(layers) == {layer}
