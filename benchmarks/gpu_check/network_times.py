"""Time the whole network in every way a user may run it, with and without CUDA graphs, host time beside GPU time.

A unit is a case. What is compiled is taken only where ``benchmarks.gpu_check.baselines`` has compiled it before.

Run by ``benchmarks.gpu_check``: python -m benchmarks.gpu_check.network_times
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.equivalence import Values, judge, values
from benchmarks.gpu_check.compilations import counted
from benchmarks.gpu_check.stage import Stage
from benchmarks.gpu_check.start import started
from benchmarks.gpu_check.worker import Worker, first_line
from benchmarks.machine import describe, gpu_of
from benchmarks.precision import PRECISIONS
from benchmarks.providers import BASELINE, PROVIDERS, GraphedStep, Provider, build
from benchmarks.results import Key, Report, Result
from benchmarks.timing import clock_for, interleaved
from benchmarks.work import Computed, Mode, Step

PRECISION = "bf16"
MODES: tuple[Mode, ...] = ("training", "evaluation")
GRAPH = " + CUDA graph"
COMPILED = ("compile", "compile max-autotune")
TIMED = (BASELINE, "channels_last", *COMPILED, "TensorRT", "FastResUNetPP", "folded")
RIVALS = ("smp.Unet resnet34", "smp.Unet resnet34 + compile")
_EXPECTED, _TIMING = ": plain network", ": timing in turn"  # units of a case beside its providers
_HOST_SAMPLES = 7


def case_key(mode: str, batch: int, size: int) -> str:
    """Return the name of a case."""
    return f"{mode} {batch}x{size}"


def cases(stage: Stage) -> Iterator[tuple[Mode, int, int]]:
    """Yield mode, batch and size, most telling first."""
    for batch, size in stage.shapes:
        for mode in MODES:
            yield mode, batch, size


class CaseTimer:
    """Times one case.

    Args:
        worker: hears what begins.
        stage: where.
        mode: of the network.
        batch: images.
        size: their height and width in pixels.
    """

    def __init__(self, worker: Worker, stage: Stage, mode: Mode, batch: int, size: int) -> None:
        self._worker, self._stage = worker, stage
        self._mode, self._batch, self._size = mode, batch, size
        self.key = case_key(mode, batch, size)
        self._precision = PRECISIONS[PRECISION]
        self._steps: dict[str, Computed] = {}
        self._exact: Values | None = None
        self._plain: list[Values] = []

    def results(self) -> list[Result]:
        """Return a result for every provider; those that fail, or compute something else, have no times."""
        with self._worker.watched(self.key + _EXPECTED, self._stage.device):
            self._exact = values(self._build(PROVIDERS[BASELINE], "fp32"))
            self._plain = [values(self._build(PROVIDERS[name])) for name in (BASELINE, "channels_last")]
        found = [result for name in (*TIMED, *RIVALS) for result in self._of_provider(PROVIDERS[name])]
        self._worker.begin(self.key + _TIMING)
        samples = interleaved(self._steps, clock_for(self._stage.device), self._stage.effort)
        for result in found:
            result.seconds = samples.get(result.key.provider, [])
            if result.seconds:
                result.host_seconds = self._host_seconds(self._steps[result.key.provider])
        return found

    def _of_provider(self, provider: Provider) -> Iterator[Result]:
        """Yield the result of a provider, and of a CUDA graph of the same step."""
        if not provider.applies(self._stage.subject, self._mode, self._stage.device):
            return
        steps: list[Step] = []

        def make() -> Computed:
            step = self._build(provider)
            assert isinstance(step, Step)
            steps.append(step)
            return step

        obstacle = provider.missing or self._uncompiled(provider)
        if obstacle:
            yield self._without(provider.name, obstacle)
            return
        yield self._checked(provider.name, bool(provider.rival), make)
        if self._stage.device.type == "cuda" and provider.name in self._steps:
            yield self._checked(provider.name + GRAPH, bool(provider.rival), lambda: GraphedStep(steps[0]))

    def _uncompiled(self, provider: Provider) -> str:
        if not provider.compiled:
            return ""
        found = self._worker.facts.get(f"compiled {self.key}: {provider.name}", "not compiled beforehand")
        return found if isinstance(found, str) else ""

    def _checked(self, name: str, rival: bool, make: Callable[[], Computed]) -> Result:
        """Return a result without times, and keep the step if it is right."""
        key = f"{self.key}: {name}"
        if key in self._worker.finished:
            return self._without(name, "ended the process, see the faults")
        try:
            with self._worker.watched(key, self._stage.device):
                step = make()
                found = values(step)
                assert self._exact is not None
                verdict = None if rival else judge(found, self._plain, self._exact, self._precision, self._size**2)
        except Exception as error:  # any of several compilers and engines may fail in ways of its own
            self._clean()
            return self._without(name, first_line(error))
        result = self._without(name, "")
        if verdict is not None:
            result.verdict = verdict.as_dict()
            if not verdict.passed:
                result.obstacle = f"wrong result: {verdict}"
                return result
        self._steps[name] = step
        return result

    def _build(self, provider: Provider, precision: str = PRECISION) -> Computed:
        stage = self._stage
        arithmetic = PRECISIONS[precision]
        backend = stage.backend if provider.fast else "auto"
        return build(provider, stage.subject, self._mode, arithmetic, self._batch, self._size, stage.device, backend)

    def _host_seconds(self, step: Computed) -> list[float]:
        """Return how long calls take until they return, each begun when the GPU has nothing to do."""
        seconds = []
        for _ in range(_HOST_SAMPLES):
            self._synchronize()
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        self._synchronize()
        return seconds

    def _synchronize(self) -> None:
        if self._stage.device.type == "cuda":
            torch.cuda.synchronize(self._stage.device)

    def _without(self, provider: str, obstacle: str) -> Result:
        key = Key("network", "network", self._mode, PRECISION, self._batch, self._size, provider)
        return Result(key, obstacle=obstacle)

    def _clean(self) -> None:
        gc.collect()
        if self._stage.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Give the memory back."""
        self._steps.clear()
        torch.compiler.reset()
        self._clean()


def header(stage: Stage) -> dict[str, Any]:
    """Return a file of results without results, for ``benchmarks.results.Report``."""
    gpu = gpu_of(stage.device)
    report = Report(describe(stage.device, gpu), {"effort": vars(stage.effort)})
    report.states["before"] = gpu if isinstance(gpu, str) else gpu.state().as_dict()
    if stage.rehearsal:
        report.notes.append("a rehearsal on a tiny network: its times mean nothing")
    return report.as_dict()


def _ends(key: str) -> tuple[str, ...]:
    """Return the units of which a case is done, or cannot be done, once one is finished."""
    return key, f"{key}{_EXPECTED}", f"{key}{_TIMING}"


def main() -> None:
    """Time all cases there is time for."""
    worker, stage = started(sys.argv)
    worker.fact("report of networks", header(stage))
    waiting = [case for case in cases(stage) if not worker.finished & set(_ends(case_key(*case)))]
    with counted(worker, "compilations networks"):
        for position, case in enumerate(waiting):
            if worker.seconds_left <= 0:
                worker.left(len(waiting) - position)
                return
            timer = CaseTimer(worker, stage, *case)
            try:
                found = [asdict(result) for result in timer.results()]
            except RuntimeError as error:  # most often too large for the memory
                print(f"{timer.key}: {first_line(error)}", flush=True)
            else:
                worker.done(timer.key, found)
            timer.close()


if __name__ == "__main__":
    main()
