"""Describe the machine and the software that a result was measured with: everything needed to repeat it."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.nvml import Gpu, find_gpu
from benchmarks.processor import processor
from fastresunet.training.info import revision

_PACKAGES = ("torch", "triton", "numpy", "onnxruntime", "openvino", "tensorrt", "torch_tensorrt")


def gpu_of(device: torch.device) -> Gpu | str:
    """Return a device as the management library sees it, or why it does not."""
    if device.type != "cuda":
        return "not available: no GPU is measured"
    return find_gpu(str(torch.cuda.get_device_properties(device).uuid))


def describe(device: torch.device, gpu: Gpu | str) -> dict[str, Any]:
    """Return processor, GPU, driver, versions, flags and source revision.

    Args:
        device: that computes.
        gpu: as the management library sees it.
    """
    versions = {name: version(name) for name in _PACKAGES}
    return {
        "name": name_of(device),
        "device": device.type,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": {name: found for name, found in versions.items() if found},
        "cuda": torch.version.cuda or "none",
        "hip": torch.version.hip or "none",
        "cudnn": torch.backends.cudnn.version() or "none",
        "gpu": _gpu(device, gpu),
        "flags": {
            "cudnn.benchmark": torch.backends.cudnn.benchmark,
            "cudnn.deterministic": torch.backends.cudnn.deterministic,
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        },
        "revision": revision(Path(__file__).parents[1]),
    }


def name_of(device: torch.device) -> str:
    """Return the GPU's name, or the processor's with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


def version(package: str) -> str:
    """Return the version of an installed package, "" without one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu(device: torch.device, gpu: Gpu | str) -> dict[str, Any] | str:
    if device.type != "cuda":
        return "not available: results of this machine are the CPU's"
    properties = torch.cuda.get_device_properties(device)
    known: dict[str, Any] = {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "gibibytes": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
    }
    return {**known, "driver": gpu.driver if isinstance(gpu, Gpu) else gpu}
