"""How a process of a phase starts: it hears what to do, and says on which machine unless another one has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_check.stage import Stage, stage_for
from benchmarks.gpu_check.worker import Worker
from benchmarks.gpus import data_sheet_of
from benchmarks.machine import describe, gpu_of


def started(arguments: Sequence[str]) -> tuple[Worker, Stage]:
    """Return the worker of this process and where it works.

    Args:
        arguments: of the command line.
    """
    worker, stage = Worker(), stage_for(arguments)
    if "machine" not in worker.facts:
        gpu = gpu_of(stage.device)
        machine = describe(stage.device, gpu)
        worker.fact("machine", machine)
        worker.fact("data sheet", _data_sheet(machine["name"]))
        worker.fact("state", gpu if isinstance(gpu, str) else gpu.state().as_dict())
        worker.fact("rehearsal", stage.rehearsal)
    return worker, stage


def _data_sheet(name: str) -> dict[str, Any] | None:
    sheet = data_sheet_of(name)
    if sheet is None:
        return None
    return {"name": sheet.name, "copy GB/s": sheet.gigabytes_per_second, "bf16 TFLOP/s": sheet.teraflops["bf16"]}
