"""Count what folding saves: products and bytes of each part of the network, published and folded, in eager PyTorch.

Products are multiply-accumulates with a pixel inside the image (``fastresunet.inference.count_macs``). Bytes and
launches are counted as ``aten_traffic`` says: every operation reads and writes its tensors once, nothing is joined. A
compiler that joins operations moves less.

Run: python -m benchmarks.folding [--size 256] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.aten_traffic import aten_cost
from fastresunet import ResUNetPP, fold
from fastresunet.inference.macs import operation_macs

BLOCKS = (0, 1, 2)
# A part's modules, then those inside them that are parts of their own: published, folded.
PARTS: dict[str, tuple[tuple[list[str], list[str]], tuple[list[str], list[str]]]] = {
    "stem": ((["c1"], []), (["stem"], [])),
    "encoder": ((["c2", "c3", "c4"], []), ([f"encoder.{i}" for i in BLOCKS], [])),
    "bridge": ((["b1"], []), (["bridge"], [])),
    "attention gates": (([f"d{i + 1}.a1" for i in BLOCKS], []), ([f"decoder.{i}.attention" for i in BLOCKS], [])),
    "decoder, without gates": (
        ([f"d{i + 1}" for i in BLOCKS], [f"d{i + 1}.a1" for i in BLOCKS]),
        ([f"decoder.{i}" for i in BLOCKS], [f"decoder.{i}.attention" for i in BLOCKS]),
    ),
    "head": ((["aspp", "output"], []), (["head"], [])),
    "all": (([""], []), ([""], [])),
}


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates, bytes read and written, and operations that launch something."""

    macs: int = 0
    bytes: int = 0
    launches: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.bytes + other.bytes, self.launches + other.launches)

    def __sub__(self, other: Work) -> Work:
        return Work(self.macs - other.macs, self.bytes - other.bytes, self.launches - other.launches)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="image height and width in pixels (default: 256)")
    parser.add_argument(
        "--dtype",
        type=partial(getattr, torch),
        default=torch.float32,
        choices=[torch.float32, torch.bfloat16, torch.float16],
        help="of images and weights (default: float32)",
    )
    options = parser.parse_args()
    network = ResUNetPP().eval().to(options.dtype)
    image = torch.rand(1, 3, options.size, options.size, dtype=options.dtype)
    published, folded = (work_of_modules(each, image) for each in (network, fold(network)))
    print(f"{tuple(image.shape)} {options.dtype}".replace("torch.", ""))
    print(f"{'':24}{'GMAC':>8}{'folded':>8}{'GB':>8}{'folded':>8}{'launches':>10}{'folded':>8}")
    for part, names in PARTS.items():
        before, after = (part_of(work, *chosen) for work, chosen in zip((published, folded), names, strict=True))
        print(
            f"{part:24}{before.macs / 1e9:8.2f}{after.macs / 1e9:8.2f}{before.bytes / 1e9:8.3f}"
            f"{after.bytes / 1e9:8.3f}{before.launches:10}{after.launches:8}"
        )


def part_of(work: dict[str, Work], modules: Sequence[str], others: Sequence[str]) -> Work:
    """Return the work of ``modules`` without that of ``others``, which lie in them."""
    return sum((work[name] for name in modules), Work()) - sum((work[name] for name in others), Work())


@torch.no_grad()
def work_of_modules(network: nn.Module, image: Tensor) -> dict[str, Work]:
    """Run a network once and return the work of each of its modules by name, of what it calls included."""
    counting = _Counting()
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            hooks.enter_context(_announced(module, name, counting.running))
        with counting:
            network(image)
    return counting.work


@contextmanager
def _announced(module: nn.Module, name: str, running: list[str]) -> Iterator[None]:
    """Keep the module's name in ``running`` while it runs."""
    before = module.register_forward_pre_hook(lambda *_: running.append(name))
    after = module.register_forward_hook(lambda *_: running.remove(name))
    yield
    before.remove()
    after.remove()


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.work: defaultdict[str, Work] = defaultdict(Work)

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), named: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        cost = aten_cost(function, tuple(arguments), named or {}, result)
        work = Work(operation_macs(function, arguments, result).inside)
        if cost is not None:
            work += Work(bytes=cost.read + cost.written, launches=cost.launches)
        for name in self.running:
            self.work[name] += work
        return result


if __name__ == "__main__":
    main()
