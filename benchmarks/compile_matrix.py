"""Compile every kernel of FastResUNetPP, training, evaluation and folded, for many GPUs at once, and check the code.

No GPU is needed. A kernel that spills registers, needs more shared memory than there is, multiplies without tensor
cores, or reads or writes images in pieces narrower than their channels allow is a problem, and makes the exit status 1.

Run: python -m benchmarks.compile_matrix [--targets sm_80 sm_90] [--dtypes bfloat16] [--jobs 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import triton
from fastresunet_kernels import interpreter

from benchmarks.compile_matrix_checks import examine
from benchmarks.compile_matrix_code import Code
from benchmarks.compile_matrix_report import describe, find_distinctions, place, table
from benchmarks.compile_matrix_targets import TARGETS, Target
from benchmarks.compile_matrix_variants import DTYPES, Variant, record_variants


@dataclasses.dataclass(frozen=True)
class Result:
    """One variant compiled for one target: its code, ``None`` if there is none, and what is wrong with it."""

    variant: Variant
    target: Target
    code: Code | None
    problems: list[str]


def compile_matrix(targets: Sequence[Target], dtypes: Sequence[str], batch: int, size: int, jobs: int) -> list[Result]:
    """Compile the network's kernels and return all results, by target and in the order of the first launches.

    Args:
        targets: what to compile for.
        dtypes: keys of ``DTYPES``.
        batch: images at a time.
        size: rows and columns of an image.
        jobs: processes; 1 compiles in this one.
    """
    variants = {
        backend: record_variants(backend, dtypes, batch, size) for backend in {target.backend for target in targets}
    }
    pairs = [(variant, target) for target in targets for variant in variants[target.backend]]
    results: dict[int, Result] = {}
    for index, (code, problems) in _progress(_examine_all(pairs, jobs), len(pairs)):
        variant, target = pairs[index]
        results[index] = Result(variant, target, code, problems)
    return [results[index] for index in range(len(pairs))]


def _examine_all(
    pairs: Sequence[tuple[Variant, Target]], jobs: int
) -> Iterator[tuple[int, tuple[Code | None, list[str]]]]:
    if jobs == 1:
        for index, pair in enumerate(pairs):
            yield index, examine(*pair)
        return
    # Not forked: this process has threads of PyTorch's.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(examine, *pair): index for index, pair in enumerate(pairs)}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _progress(items: Iterable[Any], total: int) -> Iterator[Any]:
    """Yield the items; show how many are done where ``rich`` is installed and a terminal listens."""
    if importlib.util.find_spec("rich") is None or not sys.stderr.isatty():
        yield from items
        return
    console = importlib.import_module("rich.console").Console(stderr=True)
    track = importlib.import_module("rich.progress").track
    yield from track(items, "Compiling", total, transient=True, console=console)


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write everything that was found, and with what it was compiled.

    Args:
        path: the file.
        results: of ``compile_matrix``.
    """
    distinctions = find_distinctions([result.variant for result in results])
    rows = [
        {
            "target": result.target.name,
            "kernel": result.variant.name,
            "variant": describe(result.variant, distinctions),
            "options": result.variant.options,
            "launches": [{**use._asdict(), "count": count} for use, count in result.variant.uses.items()],
            "code": result.code and dataclasses.asdict(result.code),
            "problems": result.problems,
        }
        for result in results
    ]
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    path.write_text(json.dumps({"versions": versions, "results": rows}, indent=1) + "\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, known, what in (
        ("targets", TARGETS, "GPUs to compile for"),
        ("dtypes", DTYPES, "of the network; float32 with TF32 products, the others by autocast"),
    ):
        every = list(known)
        told = f"{what} (default: all of {', '.join(every)})"
        parser.add_argument(f"--{name}", nargs="+", choices=every, default=every, metavar="NAME", help=told)
    parser.add_argument("--batch", type=int, default=16, help="images at a time (default: 16)")
    parser.add_argument("--size", type=int, default=256, help="rows and columns of an image (default: 256)")
    cores = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=cores, help=f"processes (default: one a core, here {cores})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it to a file")
    options = parser.parse_args(arguments)
    if options.size < 32 or options.size % 8:
        parser.error(f"--size must be a multiple of 8 from 32 on, got {options.size}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.parent}")
    if interpreter.INTERPRETED:
        parser.error("kernels are interpreted, not compiled, with TRITON_INTERPRET=1: unset it")
    for name in ("batch", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each target, then the problems.

    Args:
        arguments: words after the command; None takes those of the process.

    Returns:
        Exit status: 0 without problems, 1 with some. A wrong command line exits with 2.
    """
    options = parse(arguments)
    targets = [TARGETS[name] for name in dict.fromkeys(options.targets)]
    results = compile_matrix(targets, list(dict.fromkeys(options.dtypes)), options.batch, options.size, options.jobs)
    if options.json:
        write_json(options.json, results)
    distinctions = find_distinctions([result.variant for result in results])
    for target in targets:
        chosen = [result for result in results if result.target == target]
        print(f"\n{target.name}\n{table([(r.variant, r.code, not r.problems) for r in chosen], distinctions)}")
    faulty = [result for result in results if result.problems]
    print(f"\n{len(results)} compilations, {len(faulty)} with problems")
    for result in faulty:
        where = f"{result.target.name} {result.variant.name} at {place(result.variant)}"
        print(f"{where}: {'; '.join(result.problems)} ({describe(result.variant, distinctions)})")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
