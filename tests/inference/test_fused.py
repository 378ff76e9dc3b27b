"""The folded network from fused operations: the same numbers, one graph, and weights that are never old ones."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from fastresunet import KerasResUNetPP, fold
from fastresunet.inference import FoldedResUNetPP, fused
from fastresunet.inference import network as network_module
from fastresunet.inference.exporting import export_program
from fastresunet.ops.backend import _TRITON_IS_INSTALLED, takes_kernels
from tests.numerics import assert_as_close_as_reference, relative_difference

from .networks import hard_network, mild_network


@pytest.fixture
def fused_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let folded networks for Triton compute the fused operations by their twins in PyTorch."""

    def logits(network: FoldedResUNetPP, x: Tensor, weights: dict[str, Tensor], backend: str) -> Tensor:
        return fused.fused_logits(network, x, weights, "torch")

    monkeypatch.setattr(network_module, "fused_logits", logits)


@pytest.mark.usefixtures("fused_in_pytorch")
@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (2, 3, 32, 48)),
        ({}, (2, 3, 8, 8)),
        ({"num_classes": 21}, (1, 3, 24, 40)),
        ({"in_channels": 5, "filters": (9, 17, 8, 20, 31), "se_reduction": 4}, (2, 5, 16, 24)),
        ({"aspp_rates": (40, 2)}, (2, 3, 24, 24)),
        ({"aspp_rates": (3, 1, 3, 3)}, (2, 3, 40, 16)),
        ({"network_class": KerasResUNetPP}, (2, 3, 33, 24)),
    ],
    ids=["batch2", "one-pixel", "21-classes", "odd-channels", "first-rate-beyond-map", "repeated-rates", "keras"],
)
def test_float64(arguments: dict[str, Any], shape: tuple[int, ...]) -> None:
    network = hard_network(**arguments)
    image = torch.randn(shape, dtype=torch.float64)
    logits, expected = (fold(network, backend)(image) for backend in ("triton", "torch"))
    assert logits.is_contiguous()
    assert relative_difference(logits, expected) <= 1e-12


@pytest.mark.usefixtures("fused_in_pytorch")
@pytest.mark.parametrize("network_class", [None, KerasResUNetPP])
@pytest.mark.parametrize("autocast", [False, True], ids=["converted", "autocast"])
def test_rounds_no_worse_than_the_steps(autocast: bool, network_class: Any) -> None:
    network = mild_network(torch.float32, **({"network_class": network_class} if network_class else {}))
    image = torch.randn(2, 3, 32, 32)
    exact = fold(copy.deepcopy(network).double(), "torch")(image.double())
    dtype = torch.float32 if autocast else torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, same = (fold(network, backend).to(dtype)(image.to(dtype)) for backend in ("triton", "torch"))
    assert logits.dtype == torch.bfloat16
    assert_as_close_as_reference(logits, same, exact, torch.bfloat16)


@pytest.mark.usefixtures("fused_in_pytorch")
def test_one_graph_that_takes_packed_and_new_weights() -> None:
    torch.compiler.reset()
    folded, other = (fold(hard_network(), "triton") for _ in range(2))
    image = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    compiled = torch.compile(folded, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert relative_difference(compiled(image), folded(image)) <= 1e-12
        assert folded.warmup([image.shape, (1, 3, 8, 8)]) is folded
        assert folded.packed is not None
        assert relative_difference(compiled(image), folded(image)) <= 1e-12
        folded.load_state_dict(other.state_dict())
        assert relative_difference(compiled(image), other(image)) <= 1e-12


def test_the_choice_of_kernels_is_traced() -> None:
    torch.compiler.reset()

    def chosen(x: Tensor) -> Tensor:
        return x + 1 if takes_kernels("auto", torch.device("cuda")) else x

    assert torch.compile(chosen, fullgraph=True, backend="eager")(torch.zeros(1)) == int(_TRITON_IS_INSTALLED)


@pytest.mark.usefixtures("fused_in_pytorch")
def test_packed_weights_follow_the_parameters() -> None:
    folded = fold(hard_network(), "triton")
    plain = fold(hard_network(), "torch")
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)

    def check(network: FoldedResUNetPP, dtype: torch.dtype = torch.float64) -> None:
        plain.load_state_dict(network.state_dict())
        assert relative_difference(network(image.to(dtype)), plain(image)) <= (1e-12 if dtype == image.dtype else 1e-3)

    memory = {
        name: weight.data_ptr() for name, weight in folded.warmup([image.shape])._packed_weights(image.dtype).items()
    }
    folded.load_state_dict(fold(hard_network()).state_dict())
    check(folded)
    for parameter in folded.parameters():
        parameter.mul_(0.9)
    check(folded)
    assert memory == {name: weight.data_ptr() for name, weight in folded._packed_weights(image.dtype).items()}
    check(copy.deepcopy(folded))
    check(pickle.loads(pickle.dumps(folded)))
    folded.float()
    assert folded.packed is None
    check(folded, torch.float32)
    assert not any("packed" in name for name in folded.state_dict())


@pytest.mark.usefixtures("fused_in_pytorch")
def test_packed_weights_need_no_inference_mode() -> None:
    folded = fold(hard_network(), "triton")
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        expected = folded(image)
    assert torch.equal(folded(image), expected)


@pytest.mark.usefixtures("fused_in_pytorch")
def test_gradients_are_refused() -> None:
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    with pytest.raises(NotImplementedError, match=r"have no gradient; use fold\(model, backend=\"torch\"\)"):
        fold(hard_network(), "triton")(image).sum().backward()


def test_an_exported_graph_has_the_steps() -> None:
    program = export_program(fold(hard_network(torch.float32), "triton"))
    assert not [node for node in program.graph.nodes if "fastresunet" in str(node.target)]


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ValueError, match='backend must be "auto", "triton" or "torch", got \'cuda\''):
        fold(hard_network(), "cuda")  # type: ignore[arg-type]


def test_kernels_need_a_gpu() -> None:
    with pytest.raises(RuntimeError, match="needs tensors on a GPU, got cpu"):
        fold(hard_network(), "triton")(torch.randn(1, 3, 8, 8, dtype=torch.float64))
