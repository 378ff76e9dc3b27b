"""Peak figures of GPUs from their vendors' data sheets: dense products, without sparsity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSheet:
    """What a vendor promises.

    Attributes:
        name: of the GPU.
        match: part of the name that the driver reports.
        source: title of the document.
        gigabytes_per_second: of the memory.
        teraflops: of products accumulated in float32, by precision (see ``benchmarks.precision``).
    """

    name: str
    match: str
    source: str
    gigabytes_per_second: float
    teraflops: dict[str, float]


def _sheet(name: str, match: str, source: str, bandwidth: float, half: float, tf32: float, single: float) -> DataSheet:
    return DataSheet(name, match, source, bandwidth, {"bf16": half, "fp16": half, "tf32": tf32, "fp32": single})


DATA_SHEETS = {
    "h100": _sheet("NVIDIA H100 SXM", "H100", "NVIDIA H100 Tensor Core GPU data sheet", 3350, 989.4, 494.7, 66.9),
    "h200": _sheet("NVIDIA H200 SXM", "H200", "NVIDIA H200 Tensor Core GPU data sheet", 4800, 989.4, 494.7, 66.9),
    "a100": _sheet("NVIDIA A100 80GB SXM", "A100", "NVIDIA A100 Tensor Core GPU data sheet", 2039, 312, 156, 19.5),
    "l40s": _sheet("NVIDIA L40S", "L40S", "NVIDIA L40S data sheet", 864, 362.05, 183, 91.6),
    # GeForce cards run products that accumulate in float32 at half the rate of those that accumulate in float16.
    "4090": _sheet(
        "NVIDIA GeForce RTX 4090", "4090", "NVIDIA Ada GPU architecture white paper", 1008, 165.2, 82.6, 82.6
    ),
    # The data sheet gives eight GPUs, products with sparsity.
    "b200": _sheet("NVIDIA B200 SXM", "B200", "NVIDIA DGX B200 data sheet", 8000, 2250, 1125, 75),
    "mi300x": _sheet("AMD Instinct MI300X", "MI300X", "AMD Instinct MI300X data sheet", 5300, 1307.4, 653.7, 163.4),
}


def data_sheet_of(gpu: str) -> DataSheet | None:
    """Return the data sheet of a GPU by the name that its driver reports, ``None`` if there is none here."""
    return next((sheet for sheet in DATA_SHEETS.values() if sheet.match in gpu), None)
