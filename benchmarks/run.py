"""Measure cases, each only after its results have been checked, and write what was found as it comes.

Run: python -m benchmarks.run [--full] [--seconds 540] [--only TEXT] [--out benchmarks/report/results.json]
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import energy, memory
from benchmarks.cases import Case, select
from benchmarks.equivalence import Values, judge, values
from benchmarks.machine import describe, gpu_of, name_of
from benchmarks.networks import NETWORK, ModuleSubject
from benchmarks.nvml import Gpu
from benchmarks.precision import PRECISIONS
from benchmarks.providers import BASELINE, PROVIDERS, Provider, build, exact_step, plain_steps
from benchmarks.results import Key, Report, Result
from benchmarks.timing import Clock, Effort, clock_for, interleaved
from benchmarks.work import Computed, Step
from fastresunet.ops import Backend


@dataclass
class Runner:
    """Measures cases on one device.

    Attributes:
        device: where.
        clock: measures times.
        effort: how long, for each case.
        gpu: as the management library sees it, or why it does not.
        backend: of the fast network.
        seconds_left: of the whole run; not limited by default.
    """

    device: torch.device
    clock: Clock
    effort: Effort
    gpu: Gpu | str
    backend: Backend = "auto"
    seconds_left: Callable[[], float] = lambda: float("inf")

    def run(self, case: Case) -> list[Result]:
        """Return a result for every provider of a case; those that fail their check are not timed."""
        try:
            exact, plain = self._expected(case)
        except torch.AcceleratorError:
            raise  # after which the device computes nothing any more
        except RuntimeError as error:  # most often too large for the memory
            self._clean()
            return [_without(case, name, f"cannot be checked: {_first_line(error)}") for name in case.providers]
        results, steps = [], {}
        for name in case.providers:
            result, step = self._checked(case, PROVIDERS[name], exact, plain)
            results.append(result)
            if step is not None:
                steps[name] = step
        del exact, plain
        try:
            samples = interleaved(steps, self.clock, self.effort) if steps else {}
        except torch.OutOfMemoryError as error:  # each fitted, all together do not
            samples = {}
            for result in results:
                result.obstacle = result.obstacle or f"cannot be timed beside the others: {_first_line(error)}"
        for result in results:
            result.seconds = samples.get(result.key.provider, [])
            if case.energy and result.seconds:
                step = steps[result.key.provider]
                result.joules_per_image = energy.joules_per_image(step, case.batch, self.gpu, self._synchronize)
        steps.clear()
        self._clean()
        return results

    def _expected(self, case: Case) -> tuple[Values, list[Values]]:
        precision = PRECISIONS[case.precision]
        arguments = (case.subject, case.mode, precision, case.batch, case.size, self.device)
        exact = values(exact_step(*arguments))
        plain = [values(step) for step in plain_steps(*arguments)]
        self._clean()
        return exact, plain

    def _checked(
        self, case: Case, provider: Provider, exact: Values, plain: list[Values]
    ) -> tuple[Result, Computed | None]:
        """Return a result without times, and the step to time if it is right."""
        precision = PRECISIONS[case.precision]
        obstacle = provider.missing
        if not obstacle and provider.build_seconds and self.seconds_left() < provider.build_seconds:
            obstacle = "no time left to compile"
        if obstacle:
            return _without(case, provider.name, obstacle), None
        others = memory.held_memory(self.device) if self.device.type == "cuda" else None
        try:
            step = build(provider, case.subject, case.mode, precision, case.batch, case.size, self.device, self.backend)
            found = values(step)
            verdict = None if provider.rival else judge(found, plain, exact, precision, case.size**2)
        except torch.AcceleratorError:
            raise  # after which the device computes nothing any more
        except Exception as error:  # any of several compilers and engines may fail in ways of its own
            self._clean()
            return _without(case, provider.name, _first_line(error)), None
        result = _without(case, provider.name, "")
        if verdict is not None:
            result.verdict = verdict.as_dict()
            if not verdict.passed:
                result.obstacle = f"wrong result: {verdict}"
                return result, None
        if type(step) is Step and case.mode != "evaluation" and not provider.compiled:
            result.kept_bytes = memory.kept_bytes(step)
        if others is not None:
            result.peak = memory.peak_memory(step, self.device, others).as_dict()
        return result, step

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _clean(self) -> None:
        torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def _without(case: Case, provider: str, obstacle: str) -> Result:
    key = Key(case.group, case.subject.name, case.mode, case.precision, case.batch, case.size, provider)
    return Result(key, count=getattr(case.subject, "count", 1), obstacle=obstacle)


def measure(
    cases: Iterable[Case], runner: Runner, report: Report, file: Path, show: Callable[[str], None] = print
) -> None:
    """Measure cases one after the other while there is time; the file is written after each.

    Args:
        cases: most telling first.
        runner: measures them.
        report: receives the results.
        file: where it is written.
        show: prints a line.
    """
    report.states["before"] = _state(runner.gpu)
    if runner.device.type == "cpu":
        report.notes += competitors(os.getloadavg()[0], os.cpu_count() or 1, torch.get_num_threads())
    for case in cases:
        if runner.seconds_left() <= 0:
            report.skipped.append(str(case))
            continue
        results = runner.run(case)
        report.results += results
        report.states["after"] = _state(runner.gpu)
        _note_warnings(report, runner.gpu)
        report.write(file)
        for line in lines(results):
            show(line)
    report.write(file)


def lines(results: list[Result]) -> list[str]:
    """Return a case as text: a title, and a line for each provider."""
    title = str(results[0].key).rpartition(":")[0]
    times = {result.key.provider: result for result in results if result.seconds}
    baseline = times.get(BASELINE)
    found = [title]
    for result in results:
        if not result.seconds:
            found.append(f"  {result.key.provider:36s} not measured: {result.obstacle}")
            continue
        spread = result.spread
        ratio = "" if baseline is None else f"{baseline.spread.median / spread.median:6.2f}x"
        found.append(
            f"  {result.key.provider:36s}{1e3 * spread.median:10.3f} ms  "
            f"[{1e3 * spread.p20:.3f}, {1e3 * spread.p80:.3f}] {ratio}"
        )
    return found


def competitors(load: float, cores: int, threads: int) -> list[str]:
    """Return a warning if other processes keep cores from this one.

    Args:
        load: processes that wanted to run in the last minute, before anything was measured.
        cores: of the machine.
        threads: that will compute.
    """
    if load + threads <= cores + 0.5:
        return []
    return [
        f"a load of {load:.1f} on {cores} cores beforehand, and {threads} threads: timings are not these cores' own"
    ]


def _state(gpu: Gpu | str) -> Any:
    return gpu if isinstance(gpu, str) else gpu.state().as_dict()


def _note_warnings(report: Report, gpu: Gpu | str) -> None:
    if isinstance(gpu, Gpu):
        report.notes += [warning for warning in gpu.state().warnings() if warning not in report.notes]


def main() -> None:
    """Measure and print; see the module. Exits with 1 if a result of the fast network is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="everything, which takes hours")
    parser.add_argument("--seconds", type=float, help="after which no case begins (default: 540; without end if full)")
    parser.add_argument("--case-seconds", type=float, help="to time a case (default: 1.5; 3 if full)")
    parser.add_argument("--only", default="", help="only cases whose title contains this text")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="(default: cuda where present)")
    parser.add_argument("--backend", choices=("auto", "triton", "torch"), default="auto", help="of the fast network")
    parser.add_argument("--largest-batch", action="store_true", help="also find the largest batch that fits the GPU")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/report/results.json"), help="(default: %(default)s)"
    )
    options = parser.parse_args()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = gpu_of(device)
    budget = options.seconds or (float("inf") if options.full else 540.0)
    start = time.monotonic()
    case_seconds = options.case_seconds or (3.0 if options.full else 1.5)
    effort = Effort(warmups=3 if device.type == "cuda" else 1, least=5, most=30, seconds=case_seconds)
    runner = Runner(
        device, clock_for(device), effort, gpu, options.backend, lambda: budget - (time.monotonic() - start)
    )
    settings = {key: str(value) for key, value in vars(options).items() if key != "out"}
    report = Report(describe(device, gpu), {**settings, "effort": vars(effort)})
    cases = [case for case in select(device.type, options.full) if options.only in str(case)]
    print(f"{name_of(device)}, torch {torch.__version__}, revision {report.machine['revision']}; median [p20, p80]")
    measure(cases, runner, report, options.out)
    if options.largest_batch and device.type == "cuda":
        report.largest_batches = largest_batches(runner, "bf16", 256)
        report.write(options.out)
        print(f"largest batches: {report.largest_batches}")
    for note in report.notes:
        print(f"warning: {note}")
    print(f"{len(report.measured())} measurements, {len(report.skipped)} cases without time for them: {options.out}")
    wrong = [result for result in report.results if result.obstacle.startswith("wrong result")]
    sys.exit(1 if any(PROVIDERS[result.key.provider].fast for result in wrong) else 0)


def largest_batches(runner: Runner, precision: str, size: int) -> dict[str, int]:
    """Return how many images of a training step fit the GPU, for the plain and the fast network, by title."""
    network, found = ModuleSubject(NETWORK), {}
    for name in (BASELINE, "FastResUNetPP"):
        make_step = partial(
            build, PROVIDERS[name], network, "training", PRECISIONS[precision], size=size, device=runner.device
        )
        title = f"training {precision} {size}x{size}: {name}"
        found[title] = memory.largest_batch(partial(memory.fits_on_gpu, make_step, device=runner.device))
    return found


if __name__ == "__main__":
    main()
