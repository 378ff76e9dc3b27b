"""Count a step's launches by the layer they belong to, in the fast network and in the plain one alike.

A layer is a convolution with the BatchNorm and ReLU in front of it inside its block and what follows it there (pooling,
the shortcut's BatchNorm); all branches of an ASPP are one. What lies between the layers of a block (sums,
concatenation, gating, squeeze-and-excitation, vectors of BatchNorm, packing the weights) is the block's rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from benchmarks.recording import OUTSIDE, Record, recording
from benchmarks.traffic import NETWORKS, count
from fastresunet.reference import ASPP, ResUNetPP

PLAIN, FAST = "ResUNetPP, eager", "FastResUNetPP"
# A module's name cannot hold the dots of its path.
_DOT = "/"


@dataclass(frozen=True)
class Part:
    """A layer, or with an empty ``layer`` the rest of a block."""

    block: str
    layer: str

    def __str__(self) -> str:
        return self.layer or (OUTSIDE if self.block == OUTSIDE else f"{self.block}: between layers")


def parts(training: bool, dtype: torch.dtype, batch: int, size: int) -> dict[Part, tuple[list[Record], list[Record]]]:
    """Return the launches of the fast and of the plain network for every part, in the order of the network.

    Args:
        training: a training step, or an evaluation.
        dtype: float32, or bfloat16 for autocast to it.
        batch: images.
        size: their height and width in pixels.
    """
    fast = count(NETWORKS[FAST], training, dtype, batch, size)
    plain = count_plain(training, dtype, batch, size)
    network = ResUNetPP()
    found: dict[Part, tuple[list[Record], list[Record]]] = {
        part: ([], [])
        for block in (*(name for name, _ in network.named_children()), OUTSIDE)
        for part in [*dict.fromkeys(layers_of(network).values()), Part(block, "")]
        if part.block == block
    }
    for records, column in ((fast, 0), (plain, 1)):
        for record in records:
            part = Part(record.block, record.layer)
            # A launch for several layers, such as one that packs their weights, is the block's.
            found[part if part in found else Part(record.block, "")][column].append(record)
    return {part: lists for part, lists in found.items() if any(lists)}


def count_plain(training: bool, dtype: torch.dtype, batch: int, size: int) -> list[Record]:
    """Return the launches of the plain network; ``layer`` is the name that the fast network's launches have.

    They are counted twice, by block and by layer: ``recording`` knows one kind of part at a time. Both lists have the
    same order.
    """
    by_block = count(NETWORKS[PLAIN], training, dtype, batch, size)
    with FakeTensorMode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        network = ResUNetPP().train(training)
        images, masks = torch.empty(batch, 3, size, size), torch.empty(batch, 1, size, size)
        with recording(_Layers(network)) as by_layer, torch.set_grad_enabled(training):
            logits = network(images)
            if training:
                F.binary_cross_entropy_with_logits(logits.float(), masks).backward()
    owners = layers_of(network)
    return [
        replace(record, layer=owners[same.block].layer if same.block in owners else "")
        for record, same in zip(by_block, by_layer, strict=True)
    ]


class _Layers(nn.Module):
    """A network whose children, to whoever asks for them, are the layers that ``layers_of`` names."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name in layers_of(network):
            self.add_module(name, network.get_submodule(name.replace(_DOT, ".")))


def layers_of(network: nn.Module) -> dict[str, Part]:
    """Return the part that each layer without children belongs to, by its path with ``/`` for dots."""
    owners: dict[str, Part] = {}
    for convolution, members in _groups(network):
        name = _name_in_records(network, convolution)
        owners |= {member.replace(".", _DOT): Part(name.partition(".")[0], name) for member in members}
    return owners


def _groups(network: nn.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield each convolution with the layers around it, by their paths."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not isinstance(network.get_submodule(_parent(path)), nn.Sequential):
            yield path, [path]
        if isinstance(module, nn.Sequential):
            waiting: list[str] = []
            groups: list[tuple[str, list[str]]] = []
            for name, layer in module.named_children():
                waiting.append(f"{path}.{name}")
                if isinstance(layer, nn.Conv2d):
                    groups.append((waiting[-1], waiting))
                    waiting = []
            if groups:
                groups[-1][1].extend(waiting)
            yield from groups


def _name_in_records(network: nn.Module, convolution: str) -> str:
    """Return the name under which the fast network's launches stand: one for all branches of an ASPP."""
    block = network.get_submodule(convolution.partition(".")[0])
    branches = [f"{convolution.partition('.')[0]}.{name}.0" for name in getattr(block, "branch_names", ())]
    if isinstance(block, ASPP) and convolution in branches:
        return f"{branches[0]} to {branches[-1]}"
    return convolution


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
