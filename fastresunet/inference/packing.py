"""The folded weights as the kernels read them, computed once and kept with the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastresunet.inference.steps import Convolution, PlanePyramid, Pyramid, UpsampledConvolution


class PackedWeights(nn.Module):
    """Packed weights of a network by name, as buffers that no state dict has: a captured graph reads them in place.

    Args:
        weights: by name.
        dtype: of the features.
        version: of the parameters they were packed from.
    """

    def __init__(self, weights: dict[str, Tensor], dtype: torch.dtype, version: int) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_buffer(name, weight, persistent=False)
        self.dtype, self.version = dtype, version

    def by_name(self) -> dict[str, Tensor]:
        """Return the weights."""
        return dict(self.named_buffers())

    def update(self, weights: dict[str, Tensor], version: int) -> None:
        """Write new weights into the memory of the old ones."""
        for name, buffer in self.named_buffers():
            buffer.copy_(weights[name])
        self.version = version


def parameters_of(network: nn.Module) -> list[Tensor]:
    """Return the parameters of a network whose modules share none."""
    # Every pass asks: without the names that network.parameters() makes and drops, it takes half the time.
    parameters: list[Tensor] = []
    modules = [network]
    while modules:
        attributes = vars(modules.pop())
        parameters += [p for p in attributes["_parameters"].values() if p is not None]
        modules += [module for module in attributes["_modules"].values() if module is not None]
    return parameters


def version_of(network: nn.Module) -> int:
    """Return a number that grows with every change in place of a parameter; inference tensors do not count theirs."""
    return sum(p._version for p in parameters_of(network) if not p.is_inference())


def pack_taps(weight: Tensor) -> Tensor:
    """Return a 3x3 weight (O, I, 3, 3) as (9, I, O)."""
    return weight.flatten(2).permute(2, 1, 0)


def pack_parities(weight: Tensor) -> Tensor:
    """Return the transposed weight (I, O, 4, 4) of an upsampled source as (16, I, O), see ``ops.folded``."""
    parities = [weight[:, :, 1 - p :: 2, 1 - q :: 2].flip(2, 3) for p in (0, 1) for q in (0, 1)]
    return torch.stack(parities).permute(0, 3, 4, 1, 2).flatten(0, 2)


def pack_sources(upsampled: UpsampledConvolution, skip: Convolution) -> Tensor:
    """Return the weight (16, I, O) of a convolution of an upsampled source beside another one."""
    plain = pack_taps(skip.weight)
    return torch.cat([pack_parities(upsampled.weight), torch.cat([plain, plain.new_zeros(7, *plain.shape[1:])])], dim=1)


def pack_pyramid(pyramid: Pyramid | PlanePyramid) -> Tensor:
    """Return the weights (rates, 9, I, O) of a pyramid."""
    if isinstance(pyramid, Pyramid):
        return torch.stack([pack_taps(weight) for weight in pyramid.weights])
    taps = dict(zip(pyramid.offsets, pyramid.weight.transpose(1, 2), strict=True))
    nothing = torch.zeros_like(pyramid.weight[0].t())
    steps = (-1, 0, 1)
    weights = [
        taps[rate * i, rate * j] if i or j or place == 0 else nothing
        for place, rate in enumerate(pyramid.rates)
        for i in steps
        for j in steps
    ]
    return torch.stack(weights).unflatten(0, (len(pyramid.rates), 9))


def affine_of(convolution: Convolution | UpsampledConvolution) -> Tensor:
    """Return scale and shift (2, I) of what a convolution reads."""
    assert convolution.scale is not None
    assert convolution.shift is not None
    return torch.stack([convolution.scale.flatten(), convolution.shift.flatten()])
