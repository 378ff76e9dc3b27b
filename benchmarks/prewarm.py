"""Compile on a machine without a GPU what ``benchmarks.gpu_check`` needs on one, and write it to a file to carry there.

Triton's own driver compiles, over a CUDA library that does nothing (``benchmarks.stub_driver``), for GPUs of compute
capability 9.0: H100 and H200. A kernel's key in the cache depends on Triton's version and on the kernels' source: use
the Triton that the GPU's machine has. With its version of Python too the launchers are found, and no C compiler runs.

Run: python -m benchmarks.prewarm --out kernels.tar.gz
Then: python -m benchmarks.gpu_check --triton-cache kernels.tar.gz --out FOLDER
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks import carried_cache, stub_driver
from benchmarks.networks import NETWORK, ModuleSubject
from benchmarks.precision import PRECISIONS
from benchmarks.work import Mode, step_of
from fastresunet import fold
from fastresunet.model import FastResUNetPP

_SHAPES = "2x256,8x256,1x256,32x256,16x256,16x352,8x512"
_CPU = torch.device("cpu")
FOLDED = "folded"


@dataclass(frozen=True)
class Pass:
    """What is run once so that its kernels are compiled.

    Attributes:
        subject: the network.
        precision: name in ``PRECISIONS``.
        mode: of the network, or ``FOLDED``.
        batch: images.
        size: their height and width in pixels.
    """

    subject: ModuleSubject
    precision: str
    mode: str
    batch: int
    size: int


def passes(subject: ModuleSubject, precisions: Iterable[str], shapes: Iterable[tuple[int, int]]) -> Iterator[Pass]:
    """Yield what is run; the first shape needs nearly all kernels, the others few more."""
    for batch, size in shapes:
        for precision in precisions:
            for mode in ("training", "evaluation", FOLDED):
                yield Pass(subject, precision, mode, batch, size)


def compile_kernels(wanted: Pass) -> float:
    """Launch every kernel of a pass over the stub, and return the seconds it took."""
    start = time.monotonic()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # no kernel writes anything, and what memory holds may compute slowly
    precision = PRECISIONS[wanted.precision]
    images = wanted.subject.inputs(wanted.batch, wanted.size)
    with stub_driver.activated():
        if wanted.mode == FOLDED:
            _fold_and_run(wanted.subject, images[0], wanted.precision)
        else:
            mode: Mode = "training" if wanted.mode == "training" else "evaluation"
            step_of(wanted.subject.work(True, mode, images, _CPU, backend="triton"), mode, precision)()
    return time.monotonic() - start


def _fold_and_run(subject: ModuleSubject, images: torch.Tensor, name: str) -> None:
    """Run the folded network under autocast and converted, as both are timed."""
    precision, network = PRECISIONS[name], subject.module(True, "triton").eval()
    assert isinstance(network, FastResUNetPP)
    with torch.no_grad(), precision.active(_CPU):
        fold(network, backend="triton")(images)
        with torch.autocast("cpu", enabled=False):
            fold(network, backend="triton").to(precision.features)(images.to(precision.features))


def fill(cache: Path, wanted: Iterable[Pass], processes: int) -> None:
    """Compile into a cache and say how far it is.

    Args:
        cache: folder of Triton's cache.
        wanted: what is run.
        processes: side by side.
    """
    # Read by the processes when they import Triton; the kernels' intermediate code would be most of the file.
    os.environ |= {"TRITON_CACHE_DIR": str(cache), "TRITON_STORE_BINARY_ONLY": "1"}
    todo = list(wanted)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for one, seconds in zip(todo, pool.map(compile_kernels, todo), strict=True):
            print(f"{one.precision} {one.mode} {one.batch}x{one.size}: {seconds:.0f} s", flush=True)


def main() -> None:
    """Compile, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the file, such as kernels.tar.gz")
    parser.add_argument("--precisions", default="bf16", help="of bf16, tf32, fp16, fp32, with commas (default: bf16)")
    parser.add_argument("--shapes", default=_SHAPES, help="batch x image size (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="(default: one for each processor)")
    options = parser.parse_args()
    precisions = options.precisions.split(",")
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown:
        parser.error(f"no precision is called {', '.join(unknown)}; there are {', '.join(PRECISIONS)}")
    try:
        shapes = [(int(batch), int(size)) for batch, size in (text.split("x") for text in options.shapes.split(","))]
    except ValueError:
        parser.error(f"--shapes must be like 8x256,1x256, got {options.shapes}")
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), passes(ModuleSubject(NETWORK), precisions, shapes), options.processes)
        entries = carried_cache.pack(Path(folder), options.out, {"torch": torch.__version__, "capability": "9.0"})
    print(f"{entries} entries, {options.out.stat().st_size / 1e6:.1f} MB: {options.out}")


if __name__ == "__main__":
    main()
