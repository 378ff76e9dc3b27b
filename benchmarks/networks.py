"""Modules to compare: the whole network and each of its blocks, plain and fast, with equal parameters and inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from benchmarks.work import Mode, Work
from fastresunet.model import FastResUNetPP
from fastresunet.ops import Backend
from fastresunet.reference import ResUNetPP

NETWORK = "network"
BLOCKS = ("c1", "c2", "c3", "c4", "b1", "d1", "d2", "d3", "aspp")


@dataclass(frozen=True)
class ModuleSubject:
    """The network, or a block of it with the inputs it has there.

    Attributes:
        name: ``NETWORK``, or one of ``BLOCKS``.
        filters: channels, see ``ResUNetPP``.
        rates: dilations of the ASPPs.
    """

    name: str
    filters: tuple[int, ...] = (16, 32, 64, 128, 256)
    rates: tuple[int, ...] = (1, 6, 12, 18)

    def module(self, fast: bool, backend: Backend = "auto") -> nn.Module:
        """Return the module with parameters and running statistics from a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            plain = ResUNetPP(filters=self.filters, aspp_rates=self.rates)
            randomize(plain)
        network: ResUNetPP = plain
        if fast:
            network = FastResUNetPP(filters=self.filters, aspp_rates=self.rates, backend=backend)
            network.load_state_dict(plain.state_dict())
        return network if self.name == NETWORK else network.get_submodule(self.name)

    def inputs(self, batch: int, size: int) -> list[Tensor]:
        """Return the inputs from a fixed seed, in float32: images for the network, features for a block."""
        generator = torch.Generator().manual_seed(2)
        shapes = _input_shapes(self, size)
        draw = torch.rand if self.name in (NETWORK, "c1") else torch.randn
        return [draw((batch, *shape), generator=generator) for shape in shapes]

    def work(
        self,
        fast: bool,
        mode: Mode,
        inputs: Sequence[Tensor],
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        backend: Backend = "auto",
        transform: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> Work:
        """Return the computation.

        Args:
            fast: the fast module, or the plain one.
            mode: training or evaluation mode of the module.
            inputs: see ``inputs``; features of a block get gradients, images do not.
            device: where to compute.
            dtype: of the parameters; float64 for the exact result, otherwise float32.
            backend: of the fast module.
            transform: changes the module, for example its memory layout, once it is on the device.
        """
        module = transform(self.module(fast, backend).to(device, dtype).train(mode != "evaluation"))
        needs_gradient = mode != "evaluation" and self.name not in (NETWORK, "c1")
        given = [
            x.detach()
            .to(device, dtype if dtype == torch.float64 else x.dtype, copy=True)
            .requires_grad_(needs_gradient)
            for x in inputs
        ]
        leaves: list[Tensor] = list(module.parameters()) if mode == "training" else []
        return Work(
            module, tuple(given), [*leaves, *given] if mode == "training" and needs_gradient else leaves, device
        )


def randomize(module: nn.Module) -> None:
    """Draw the parameters and running statistics of every BatchNorm: fresh ones would hide errors in evaluation."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)


@lru_cache(maxsize=64)
def _input_shapes(subject: ModuleSubject, size: int) -> list[tuple[int, ...]]:
    """Return (channels, rows, columns) of each input of a module in a network on images of ``size``."""
    if subject.name == NETWORK:
        return [(3, size, size)]
    shapes: list[tuple[int, ...]] = []

    def see(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        shapes.extend(tuple(x.shape[1:]) for x in arguments)

    with FakeTensorMode():
        network = ResUNetPP(filters=subject.filters, aspp_rates=subject.rates)
        network.get_submodule(subject.name).register_forward_pre_hook(see)
        network(torch.empty(1, 3, size, size))
    return shapes
