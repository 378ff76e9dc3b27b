"""GPU time of every launch of a step beside its floor: counted bytes and products at what this device reached.

Run by ``benchmarks.gpu_check``: python -m benchmarks.gpu_check.kernel_times
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastresunet_kernels import launch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import stub_driver
from benchmarks.gpu_check.network_times import PRECISION, case_key
from benchmarks.gpu_check.stage import Stage
from benchmarks.gpu_check.start import started
from benchmarks.gpu_check.worker import first_line
from benchmarks.gpus import DATA_SHEETS
from benchmarks.precision import PRECISIONS
from benchmarks.providers import PROVIDERS, build
from benchmarks.recording import OUTSIDE, Record
from benchmarks.traffic import count, count_folded
from benchmarks.work import Mode
from fastresunet import fold
from fastresunet.model import FastResUNetPP

_STEPS = 8
_OTHERS = 15  # kernels that are not ours are summed by name, the longest of them kept
_NOT_KERNELS = ("Memcpy", "Memset", "gpu_")

WANTED: tuple[tuple[str, Mode], ...] = (
    ("FastResUNetPP", "training"),
    ("folded", "evaluation"),
    ("channels_last", "training"),
    ("FastResUNetPP", "evaluation"),
    ("channels_last", "evaluation"),
)
REHEARSED = WANTED[1:2]  # fewest kernels to compile

Launch = tuple[str, float]  # name of the kernel and microseconds


@dataclass(frozen=True)
class Ceiling:
    """What a device reaches.

    Attributes:
        gigabytes_per_second: of a copy.
        teraflops: of a matrix product.
    """

    gigabytes_per_second: float
    teraflops: float

    def floor_us(self, record: Record) -> float:
        """Return the microseconds that a launch takes at least."""
        moved = (record.read + record.written) / self.gigabytes_per_second / 1e3
        return max(moved, record.flop / self.teraflops / 1e6)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Ceiling:
        """Return what was measured, where that failed what the data sheet of an H100 promises."""
        sheet = DATA_SHEETS["h100"]
        return cls(
            facts.get("copy GB/s", sheet.gigabytes_per_second), facts.get("bf16 TFLOP/s", sheet.teraflops[PRECISION])
        )


def launches_on_gpu(step: Callable[[], object]) -> list[list[Launch]]:
    """Return the launches of some steps, as the GPU ran them."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(_STEPS):
            step()
        torch.cuda.synchronize()
    events = [event for event in found.events() if event.device_type == DeviceType.CUDA]
    kernels = sorted(
        (event.time_range.start, event.time_range.elapsed_us(), event.name)
        for event in events
        if not event.name.startswith(_NOT_KERNELS)
    )
    each, rest = divmod(len(kernels), _STEPS)
    if rest or not each:
        raise ValueError(f"{len(kernels)} launches were seen in {_STEPS} equal steps")
    return [[(name, us) for _, us, name in kernels[n : n + each]] for n in range(0, len(kernels), each)]


def launches_over_stub(step: Callable[[], object]) -> list[list[Launch]]:
    """Return the Triton launches of some steps over a driver that does nothing, with the host's time between them."""
    steps: list[list[Launch]] = []

    def see(seen: launch.Launch) -> bool:
        times.append((seen.kernel.__name__, time.perf_counter()))
        return True

    with stub_driver.activated():
        step()
        for _ in range(2):
            times: list[tuple[str, float]] = []
            with launch.observed(see):
                step()
            ends = [moment for _, moment in times[1:]] + [time.perf_counter()]
            steps.append([(name, 1e6 * (end - start)) for (name, start), end in zip(times, ends, strict=True)])
    return steps


def medians(steps: Sequence[Sequence[Launch]]) -> list[Launch]:
    """Return the median of each launch of a step over several.

    Raises:
        ValueError: the steps launch different kernels.
    """
    if any([name for name, _ in step] != [name for name, _ in steps[0]] for step in steps):
        raise ValueError("the steps launch different kernels")
    return [(column[0][0], statistics.median(us for _, us in column)) for column in zip(*steps, strict=True)]


def beside_floors(launches: Sequence[Launch], records: Sequence[Record], ceiling: Ceiling) -> list[dict[str, Any]]:
    """Return a row for each kernel of a layer, equal ones summed, what is furthest from its floor first.

    Args:
        launches: of our kernels, in order.
        records: the same launches as they were counted.
        ceiling: of the device.

    Raises:
        ValueError: other kernels were counted, or in another order.
    """
    if [name for name, _ in launches] != [record.kernel for record in records]:
        raise ValueError(f"{len(launches)} launches were seen that are not the {len(records)} counted ones")
    rows: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for position, ((name, us), record) in enumerate(zip(launches, records, strict=True)):
        # A folded network's weights are nobody's: its launches are known by their position.
        layer = record.layer or (f"launch {position}" if record.block == OUTSIDE else record.block)
        empty = {"kernel": name, "layer": layer, "backward": record.backward}
        row = rows.setdefault(
            (name, layer, record.backward),
            {**empty, "launches": 0, "us": 0.0, "floor_us": 0.0, "megabytes": 0.0, "gflop": 0.0},
        )
        row["launches"] += 1
        row["us"] += us
        row["floor_us"] += ceiling.floor_us(record)
        row["megabytes"] += (record.read + record.written) / 1e6
        row["gflop"] += record.flop / 1e9
    rounded = [{key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()} for row in rows.values()]
    return sorted(rounded, key=lambda row: row["floor_us"] - row["us"])


def summed(launches: Iterable[Launch]) -> list[dict[str, Any]]:
    """Return the kernels that take longest, by name."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, us in launches:
        found[name[:100]].append(us)
    longest = sorted(found.items(), key=lambda item: -sum(item[1]))[:_OTHERS]
    return [{"kernel": name, "launches": len(us), "us": round(sum(us), 3)} for name, us in longest]


class Profiled:
    """A step with what is counted of it.

    Args:
        stage: where.
        provider: plain, fast or folded.
        mode: of the network.
    """

    def __init__(self, stage: Stage, provider: str, mode: Mode) -> None:
        self._stage, self._provider, self._mode = stage, provider, mode
        self._batch, self._size = stage.shapes[0]
        self.key = f"{provider}, {case_key(mode, self._batch, self._size)}"

    def _network(self) -> FastResUNetPP:
        subject = self._stage.subject
        return FastResUNetPP(filters=subject.filters, aspp_rates=subject.rates, backend="triton")

    def _step(self) -> Callable[[], object]:
        stage, precision = self._stage, PRECISIONS[PRECISION]
        if self._provider == "folded":  # as it is counted: converted, not cast
            folded = fold(self._network(), backend="triton").to(stage.device, precision.features)
            images = stage.subject.inputs(self._batch, self._size)[0].to(stage.device, precision.features)
            return torch.no_grad()(lambda: folded(images))
        provider = PROVIDERS[self._provider]
        return build(provider, stage.subject, self._mode, precision, self._batch, self._size, stage.device, "triton")

    def _records(self) -> list[Record]:
        dtype = PRECISIONS[PRECISION].features
        if self._provider == "folded":
            found = count_folded(dtype, self._batch, self._size, self._network)
        else:
            found = count(self._network, self._mode == "training", dtype, self._batch, self._size)
        return [record for record in found if record.kernel.endswith("_kernel")]

    def result(self, ceiling: Ceiling) -> dict[str, Any]:
        """Return milliseconds in which the GPU was busy, our kernels beside their floors, and the others."""
        if self._stage.rehearsal:
            with stub_driver.activated():
                step = self._step()
            steps = launches_over_stub(step)
        else:
            steps = launches_on_gpu(self._step())
        launches = medians(steps)
        records = self._records() if self._provider != "channels_last" else []
        names = {record.kernel for record in records}
        ours = [one for one in launches if one[0] in names]
        busy, own = (sum(us for _, us in found) / 1e3 for found in (launches, ours))
        result: dict[str, Any] = {"launches": len(launches), "busy_ms": round(busy, 4), "our_kernels_ms": round(own, 4)}
        try:
            result["kernels"] = beside_floors(ours, records, ceiling)
            result["floor_ms"] = round(sum(map(ceiling.floor_us, records)) / 1e3, 4)
        except ValueError as error:
            result |= {"problem": str(error), "kernels": summed(ours)}
        return {**result, "others": summed(one for one in launches if one[0] not in names)}


def main() -> None:
    """Profile our training step, evaluation and folded pass, and the plain network beside them."""
    worker, stage = started(sys.argv)
    ceiling = Ceiling.of(worker.facts)
    wanted = REHEARSED if stage.rehearsal else WANTED
    for position, (provider, mode) in enumerate(wanted):
        profiled = Profiled(stage, provider, mode)
        if profiled.key in worker.finished:
            continue
        if worker.seconds_left <= 0:
            worker.left(len(wanted) - position)
            return
        try:
            with worker.watched(profiled.key, stage.device):
                result = profiled.result(ceiling)
        except Exception as error:  # a compiler, the profiler, or launches in another order
            result = {"problem": first_line(error)}
        worker.done(profiled.key, result)


if __name__ == "__main__":
    main()
