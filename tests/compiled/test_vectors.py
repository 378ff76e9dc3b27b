"""The kernels of BatchNorm's and the excitation's vectors, compiled, against the PyTorch backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastresunet_kernels.launchers import LAUNCHERS
from torch import Tensor

from fastresunet.ops import torch_backend
from tests.compiled.twins import arguments, assert_close
from tests.ops.cases import ConvCase

# Neither samples nor channels fill their blocks.
SAMPLES, CHANNELS, PIXELS = 9, 70, 12


def check(operation: str, operands: list[Any], terms: int) -> None:
    """Assert that a kernel rounds no worse in float32 than its twin."""
    exact = [x.double() if isinstance(x, Tensor) else x for x in operands]
    exact = [torch.float64 if x == torch.float32 else x for x in exact]
    twin = getattr(torch_backend, operation)
    assert_close(LAUNCHERS[operation](*operands), twin(*operands), twin(*exact), torch.float32, terms)


def moments(samples: int, channels: int, gated: bool) -> list[Any]:
    mean, m2, gate = torch.randn(samples, channels) + 5, torch.rand(samples, channels), torch.rand(samples, channels)
    return [mean, PIXELS * m2, gate if gated else None, PIXELS]


@pytest.mark.parametrize("gated", [False, True], ids=["no-gate", "gate"])
def test_batch_affine(architecture: int, gated: bool) -> None:
    maps = [*moments(SAMPLES, CHANNELS, gated), *moments(SAMPLES, 5, gated)]
    gamma, beta, mu, var = torch.rand(4, CHANNELS + 5) + 0.5
    check("batch_affine", [*maps, SAMPLES, CHANNELS, gamma, beta, 1e-5, None, None, torch.float32], SAMPLES)
    grads = [torch.randn(3, SAMPLES, channels) for channels in (CHANNELS, 5)]
    added = [torch.randn(SAMPLES, channels) if gated else None for channels in (CHANNELS, 5)]
    operands = [*grads, *maps, SAMPLES, CHANNELS, gamma, mu, var, 1e-5, True, *added]
    check("batch_affine_backward", operands, SAMPLES)


@pytest.mark.parametrize("hidden", [1, 9])
def test_excitation(architecture: int, hidden: int) -> None:
    mean, weight1, weight2 = (
        torch.randn(SAMPLES, CHANNELS),
        torch.randn(hidden, CHANNELS),
        torch.randn(CHANNELS, hidden),
    )
    check("excitation", [mean, weight1, weight2], CHANNELS)
    gate, (grad, added, grad_m2) = torch.rand(SAMPLES, CHANNELS), torch.randn(3, SAMPLES, CHANNELS)
    check("excitation_backward", [grad, gate, mean, weight1, weight2, added, grad_m2], CHANNELS)
    check("excitation_backward", [grad, gate, mean, weight1, weight2], CHANNELS)


@pytest.mark.parametrize("reader", ["conv_batch_affine", "conv_excitation"])
def test_statistics_are_merged_by_what_reads_them(
    architecture: int, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    case = ConvCase("merged", channels=(16,), out=48, size=(40, 37), samples=3, epilogue="residual")
    given = arguments(case, torch.bfloat16)
    gamma, beta = torch.rand(2, case.out) + 0.5
    vectors: list[Any] = [gamma, beta, 1e-5, None, None]
    if reader == "conv_excitation":
        vectors = [torch.randn(6, case.out), torch.randn(case.out, 6)]
    operands = {
        dtype: [
            *images[:7],
            images[8],
            *(v.to(torch.promote_types(dtype, torch.float32)) if isinstance(v, Tensor) else v for v in vectors),
        ]
        for dtype, images in given.items()
    }
    twin = getattr(torch_backend, reader)
    results = (
        LAUNCHERS[reader](*operands[torch.bfloat16]),
        twin(*operands[torch.bfloat16]),
        twin(*operands[torch.float64]),
    )
    assert_close(*results, torch.bfloat16, 16 * 9)
