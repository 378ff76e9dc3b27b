"""Time every operation of the network beside cuDNN's, replayed from CUDA graphs; a unit is an operation.

Run by ``benchmarks.gpu_check``: python -m benchmarks.gpu_check.layer_times
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, replace

from torch.utils._pytree import tree_leaves

from benchmarks.cases import Case, distinct
from benchmarks.gpu_check.network_times import GRAPH, MODES, PRECISION, header
from benchmarks.gpu_check.stage import Stage
from benchmarks.gpu_check.start import started
from benchmarks.gpu_check.worker import first_line
from benchmarks.layers import LayerSubject, Shape, layers
from benchmarks.machine import gpu_of
from benchmarks.run import Runner
from benchmarks.timing import clock_for

_SECONDS = 0.2


def cases(stage: Stage) -> list[Case]:
    """Return the operations of a training step and an evaluation, those with most pixels first."""
    (batch, size), subject = stage.shapes[0], stage.subject
    providers = tuple(f"{name}{'' if stage.rehearsal else GRAPH}" for name in ("eager", "FastResUNetPP"))
    found = []
    for mode in MODES:
        subjects = distinct(layers(mode != "evaluation", batch, size, subject.filters, subject.rates))
        subjects = sorted(subjects, key=elements, reverse=True)[: stage.most_units]
        found += [Case("layer", layer, mode, PRECISION, batch, size, providers) for layer in subjects]
    return found


def elements(layer: LayerSubject) -> int:
    """Return how many numbers an operation is given in a step."""
    shapes = tree_leaves([value for _, value in layer.options])
    return layer.count * sum(math.prod(shape.sizes) for shape in shapes if isinstance(shape, Shape))


def main() -> None:
    """Time all operations there is time for."""
    worker, stage = started(sys.argv)
    worker.fact("report of layers", header(stage))
    effort = replace(stage.effort, seconds=_SECONDS)
    runner = Runner(stage.device, clock_for(stage.device), effort, gpu_of(stage.device), stage.backend)
    waiting = [case for case in cases(stage) if str(case) not in worker.finished]
    for position, case in enumerate(waiting):
        if worker.seconds_left <= 0:
            worker.left(len(waiting) - position)
            return
        try:
            with worker.watched(str(case), stage.device):
                found = [asdict(result) for result in runner.run(case)]
        except Exception as error:  # a compiler, or too large for the memory
            print(f"{case}: {first_line(error)}", flush=True)
        else:
            worker.done(str(case), found)


if __name__ == "__main__":
    main()
