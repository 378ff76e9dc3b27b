"""What one source of a convolution contributes to the launch of its gradients: programs, buffers and arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .choice import choose
from .config import Config, on_warps
from .gradient_programs import InputTiles, Read, WeightPrograms, input_tiles, weight_programs
from .output_gradient import OutputGradient


@dataclass(frozen=True)
class Source:
    """One source of a convolution.

    Attributes:
        data: features (N, C, H, W), channels-last.
        affine: (3, N, C) or (1, N, C), or empty.
        relu: whether it was read through a ReLU.
        side_affine: scale (1, N, C) that the side read it with, or empty.
        read: how the convolution read it.
        first_input: where its inputs start in the weights.
    """

    data: Tensor
    affine: Tensor
    relu: bool
    side_affine: Tensor
    read: Read
    first_input: int

    @property
    def side_read(self) -> Read:
        """How the side read it."""
        return Read(1, self.read.stride, (1,), self.read.upsample)


class Wanted(NamedTuple):
    """Which gradients are wanted: of the weight and its bias, of the side's weight, of the sources."""

    weight: bool
    side_weight: bool
    sources: bool


class Configs(NamedTuple):
    """Tiles of the gradients of a weight, of the side's weight and of a source, ``None`` where not wanted."""

    weight: Config | None
    side_weight: Config | None
    source: Config | None

    @property
    def warps(self) -> int:
        """Warps that the first of them wants."""
        return next(config.warps for config in self if config is not None)

    def on_warps(self, warps: int) -> Configs:
        """Return the same for another number of warps."""
        return Configs(*(None if config is None else on_warps(config, warps) for config in self))


def choose_configs(grad: OutputGradient, source: Source, wanted: Wanted, config: Config | None) -> Configs:
    """Return the tiles that a source's gradients are computed with.

    Args:
        grad: gradients of the raw results of all branches.
        source: the source.
        wanted: at least one gradient.
        config: tile of the first gradient that is wanted, or ``None`` for the chosen one.
    """
    channels, device = source.data.shape[1], source.data.device
    layers = (
        source.read.layer("weight_gradient", grad, channels),
        source.side_read.layer("weight_gradient", grad, channels),
        source.read.layer("input_gradient", grad, channels),
    )
    chosen: list[Config | None] = []
    for layer, is_wanted in zip(layers, wanted, strict=True):
        chosen.append((config or choose(layer, device)) if is_wanted else None)
        config = None if is_wanted else config
    return Configs(*chosen)


@dataclass(frozen=True)
class SourcePart:
    """The programs of one source's gradients and what they write, ``None`` where not wanted.

    Attributes:
        source: the source.
        weight: programs of the weight's gradient.
        side: programs of the side's weight's gradient.
        tiles: programs of the source's gradient.
        slabs: of the weight.
        side_slabs: of the side's weight.
        result: gradient of the source.
        vectors: sums of dz, of dz (u - center), and of the side's gradient times u (2 or 3, samples, tiles, channels).
    """

    source: Source
    weight: WeightPrograms | None
    side: WeightPrograms | None
    tiles: InputTiles | None
    slabs: Tensor | None
    side_slabs: Tensor | None
    result: Tensor | None
    vectors: Tensor | None

    @classmethod
    def of(cls, grad: OutputGradient, source: Source, configs: Configs) -> SourcePart:
        """Divide the gradients into programs, and make what they write."""
        data, (weight, side, tile) = source.data, configs
        shape, result = tuple(data.shape), (grad.size, grad.channels)
        main = None if weight is None else weight_programs(*result, shape, source.read, weight)
        beside = None if side is None else weight_programs(*result, shape, source.side_read, side)
        tiles = None if tile is None else input_tiles(grad.channels, shape, source.read, tile)
        vectors, has_side_scale = None, source.side_affine.numel() > 0
        if tiles is not None and (source.affine.numel() > 0 or has_side_scale):
            shape = (3 if has_side_scale else 2, data.shape[0], tiles.tiles, data.shape[1])
            vectors = data.new_empty(shape, dtype=torch.promote_types(data.dtype, torch.float32))
        return cls(
            source,
            main,
            beside,
            tiles,
            None if main is None else main.new_slabs(data),
            None if beside is None else beside.new_slabs(data),
            None if tiles is None else torch.empty_like(data),
            vectors,
        )

    @property
    def programs(self) -> int:
        """All programs."""
        return sum(part.programs for part in (self.weight, self.side, self.tiles) if part is not None)

    @property
    def products(self) -> int:
        """Multiply-add operations for each sample, and pixel and channel of the result."""
        parts = sum(part.products for part in (self.weight, self.side, self.tiles) if part is not None)
        return parts * self.source.data.shape[1]

    @property
    def pointers(self) -> tuple[Tensor | None, ...]:
        """Tensors as the kernel takes them."""
        source, vectors = self.source, self.vectors
        affine = source.affine if source.affine.numel() else None
        side_affine = source.side_affine if source.side_affine.numel() else None
        return (
            source.data,
            affine,
            side_affine,
            self.result,
            None if vectors is None or affine is None else vectors[0],
            None if vectors is None or affine is None else vectors[1],
            None if vectors is None or side_affine is None else vectors[2],
            self.slabs,
            self.side_slabs,
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes as the kernel takes them."""
        _, channels, height, width = self.source.data.shape
        return (
            height,
            width,
            channels,
            self.source.first_input,
            *((0, 0, 0, 0, 0) if self.weight is None else self.weight.arguments),
            *((0, 0, 0, 0, 0) if self.side is None else self.side.arguments),
            *((0, 0, 0) if self.tiles is None else self.tiles.arguments),
        )

    @property
    def constants(self) -> dict[str, Any]:
        """Compile-time constants of the kernel."""
        source, tiles = self.source, self.tiles
        return {
            "MODE": None if tiles is None else tiles.mode,
            "TAPS": None if tiles is None else tiles.taps,
            "WEIGHT_TAPS": None if self.weight is None else self.weight.taps,
            "UPSAMPLE": source.read.upsample,
            "AFFINE": source.affine.shape[0],
            "SIDE_AFFINE": source.side_affine.shape[0],
            "RELU": source.relu,
            "WEIGHT_TILE": None if self.weight is None else self.weight.constants,
            "SIDE_TILE": None if self.side is None else self.side.constants,
            "TILE": None if tiles is None else tiles.constants,
        }
