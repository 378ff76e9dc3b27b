"""A share of the check of all operations against plain PyTorch, see ``benchmarks.kernel_check``; a unit is one result.

Run by ``benchmarks.gpu_check``: python -m benchmarks.gpu_check.checks PRECISION SHARE/SHARES [--configurations]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import torch

from benchmarks.gpu_check import graphed, repeats
from benchmarks.gpu_check.compilations import counted
from benchmarks.gpu_check.stage import Stage
from benchmarks.gpu_check.start import started
from benchmarks.gpu_check.worker import Worker, first_line
from benchmarks.kernel_check import DEFAULT, Checker, Variant, recorded, signature
from benchmarks.precision import PRECISIONS
from fastresunet.ops.backend import Call

CONFIGURATIONS = "--configurations"


def calls_of(stage: Stage, precision: str, share: str) -> dict[str, Call]:
    """Return the calls of a share by names that are the same in every process.

    Args:
        stage: where they are recorded.
        precision: name in ``PRECISIONS``.
        share: which part of how many, such as "0/8".
    """
    found = recorded(stage.subject, PRECISIONS[precision], *stage.check_shape, stage.device)
    if stage.rehearsal:
        kinds: dict[str, Call] = {}
        for call in found:
            kinds.setdefault(call.name, call)
        found = list(kinds.values())[: stage.most_units]
    part, parts = map(int, share.split("/"))
    seen: Counter[str] = Counter()
    named = {}
    for call in found:
        name = f"{precision} {signature(call)}"
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name} #{seen[name]}"] = call
    return dict(list(named.items())[part::parts])


def check(worker: Worker, stage: Stage, calls: dict[str, Call], precision: str, configurations: bool) -> None:
    """Check calls and say what came of each, while there is time."""
    backend = stage.checked_backend()
    with torch.no_grad(), PRECISIONS[precision].active(stage.device):
        for position, (name, call) in enumerate(calls.items()):
            if worker.seconds_left <= 0:
                worker.left(len(calls) - position)
                return
            preparing = f"{name}, by PyTorch"
            if preparing in worker.finished or (not configurations and f"{name}, default" in worker.finished):
                continue
            with worker.watched(preparing, stage.device):
                checker = Checker(call, PRECISIONS[precision], backend)
            for variant in _variants(worker, stage, checker, name) if configurations else [DEFAULT]:
                key = f"{name}, {variant.description}"
                if key in worker.finished:
                    continue
                if worker.seconds_left <= 0:
                    worker.left(len(calls) - position)
                    return
                try:
                    with worker.watched(key, stage.device):
                        problem = checker.problem(variant)
                except Exception as error:  # compilers fail in many ways; each is a finding
                    problem = first_line(error)
                worker.done(key, problem)


def _variants(worker: Worker, stage: Stage, checker: Checker, name: str) -> Iterator[Variant]:
    """Yield the configurations of a call; what they are is known once it has run."""
    key = f"{name}, its configurations"
    if key in worker.finished:
        return
    try:
        with worker.watched(key, stage.device):
            variants = list(checker.variants())
    except Exception as error:  # in the default configuration, which another phase has named
        print(f"{key}: {first_line(error)}", flush=True)
        return
    yield from variants


def check_repeats(worker: Worker, stage: Stage, precision: str) -> None:
    """Check that whole steps compute the same again, and from the package's graphs."""
    for name, problem_of in (
        *repeats.checks(stage, PRECISIONS[precision]),
        *graphed.checks(stage, PRECISIONS[precision]),
    ):
        key = f"{precision} {name}"
        if key in worker.finished or worker.seconds_left <= 0:
            continue
        try:
            with worker.watched(key, stage.device):
                problem = problem_of()
        except Exception as error:  # compilers and graphs fail in many ways; each is a finding
            problem = first_line(error)
        worker.done(key, problem)


def main() -> None:
    """Check a share."""
    worker, stage = started(sys.argv)
    precision, share = sys.argv[1:3]
    torch.set_num_threads(1)  # many processes share the processors
    with counted(worker, f"compilations {precision} {share}"):
        check(worker, stage, calls_of(stage, precision, share), precision, CONFIGURATIONS in sys.argv)
        if CONFIGURATIONS not in sys.argv and share.startswith("0/"):
            check_repeats(worker, stage, precision)


if __name__ == "__main__":
    main()
