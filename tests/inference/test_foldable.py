"""What cannot be folded is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fastresunet import FastResUNetPP, KerasResUNetPP, ResUNetPP, fold

from .networks import SMALL, hard_network


def replace(name: str, layer: nn.Module) -> Callable[[nn.Module], object]:
    return lambda network: network.set_submodule(name, layer)


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no-running-statistics": (
        replace("c3.c1.3", nn.BatchNorm2d(8, track_running_stats=False)),
        "'c3.c1.3' has no running statistics",
    ),
    "activation": (replace("d1.a1.g_conv.1", nn.LeakyReLU()), r"'d1.a1.g_conv.1' was replaced: expected ReLU"),
    "normalisation": (replace("b1.c2.1", nn.GroupNorm(4, 16)), r"'b1.c2.1' was replaced: expected BatchNorm2d"),
    "features": (replace("c2.c1.0", nn.BatchNorm2d(9)), r"'c2.c1.0' was replaced: expected 8 features, got 9"),
    "pooling": (replace("d3.a1.g_conv.3", nn.AvgPool2d(2)), r"'d3.a1.g_conv.3' was replaced: expected MaxPool2d"),
    "dilation": (replace("b1.c1.0", nn.Conv2d(24, 16, 3, padding=2, dilation=2)), r"'b1.c1.0' was altered"),
    "padding-mode": (replace("c1.c1.0", nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")), r"'c1.c1.0' was alter"),
    "no-bias": (replace("output", nn.Conv2d(8, 1, 1, bias=False)), r"'output' was altered: expected Conv2d\(8, 1"),
    "block": (replace("c2.attn", nn.Identity()), r"'c2.attn' was replaced: expected SqueezeExcite"),
    "layer-more": (lambda network: network.c2.c1.append(nn.Dropout()), r"no layer 'c2.c1.6', got Dropout"),
    "layer-less": (lambda network: network.c2.c1.pop(5), r"the network has no layer 'c2.c1.5'"),
    "hook": (lambda network: network.d1.r1.c1[2].register_forward_hook(print), r"'d1.r1.c1.2' has a forward hook"),
    "pre-hook": (lambda network: network.aspp.register_forward_pre_hook(print), r"'aspp' has a forward hook"),
    "weight-norm": (
        lambda network: nn.utils.parametrizations.weight_norm(network.c4.c1[2]),
        r"'c4.c1.2' was replaced: expected Conv2d\(8, 24",
    ),
    "own-forward": (lambda network: setattr(network.d2, "forward", print), r"'d2' has a forward hook or a forward"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("network_class", [ResUNetPP, FastResUNetPP])
def test_altered_networks_are_refused_by_name(case: str, network_class: type[ResUNetPP]) -> None:
    alter, message = REFUSED[case]
    network = network_class(**SMALL)
    alter(network)
    with pytest.raises(ValueError, match="cannot fold: .*" + message):
        fold(network)


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="fold takes a FastResUNetPP, KerasResUNetPP or ResUNetPP, got Linear"):
        fold(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got OptimizedModule; fold the network itself"):
        fold(torch.compile(ResUNetPP(**SMALL)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("network_class", "other_class"), [(ResUNetPP, KerasResUNetPP), (KerasResUNetPP, ResUNetPP)])
def test_convolutions_of_the_other_padding_are_refused(
    network_class: type[ResUNetPP], other_class: type[ResUNetPP]
) -> None:
    network = network_class(**SMALL)
    network.set_submodule("c3.c1.2", other_class(**SMALL).get_submodule("c3.c1.2"))
    with pytest.raises(ValueError, match=r"'c3.c1.2' was replaced: expected .*Conv2d\("):
        fold(network)


def test_a_subclass_with_its_own_forward_is_refused() -> None:
    class Doubled(ResUNetPP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match=r"the network was replaced: expected ResUNetPP.*, got Doubled"):
        fold(Doubled(**SMALL))


def test_synchronised_and_plain_scales_are_folded() -> None:
    network = hard_network()
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    expected = network(image)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert torch.allclose(fold(synchronised)(image), expected, rtol=1e-10)
    norm = nn.BatchNorm2d(8, affine=False).double().eval()
    network.set_submodule("c3.c1.3", norm)
    assert torch.allclose(fold(network)(image), network(image), rtol=1e-10)
