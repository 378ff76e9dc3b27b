"""torch.compile sees one graph, for any batch size."""

from __future__ import annotations

import copy

import pytest
import torch
from functorch.compile import make_boxed_compiler
from torch._dynamo.backends.common import aot_autograd

from fastresunet import FastResUNetPP
from tests.numerics import assert_gradients_close, relative_difference


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_full_graph_with_dynamic_batch(training: bool) -> None:
    torch.compiler.reset()
    model = FastResUNetPP(filters=(8, 8, 8, 8, 8)).double().train(training)
    eager = copy.deepcopy(model)
    graphs = 0

    def count(module: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return module

    compiled = torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=make_boxed_compiler(count)))
    for samples in (2, 3, 5, 4):
        image = torch.randn(samples, 3, 16, 24, dtype=torch.float64)
        output, expected = compiled(image), eager(image)
        output.square().sum().backward()
        expected.square().sum().backward()
        assert relative_difference(output, expected) <= 1e-12
    assert_gradients_close(model, eager, 1e-9)
    assert graphs == 4, "forward and backward once for the first size and once for any other"


def test_inductor_takes_images_of_changing_size() -> None:
    torch.compiler.reset()
    model = FastResUNetPP(filters=(8, 8, 8, 8, 8), aspp_rates=(1,))
    compiled = torch.compile(model, fullgraph=True)
    for shape in ((2, 3, 24, 32), (2, 3, 33, 20)):
        image = torch.randn(shape)
        output = compiled(image)
        output.square().mean().backward()
        assert relative_difference(output, model.forward(image)) <= 1e-4
