"""Report versions, devices and the backends of the network that can run here."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Literal

import torch

from fastresunet.model import FastResUNetPP

PACKAGES = (
    "fastresunet",
    "torch",
    "triton",
    "numpy",
    "lightning",
    "monai",
    "torchmetrics",
    "torchvision",
    "pillow",
    "tensorboard",
)
REVISION = ".revision"  # a copy of the folder without git's own carries its revision in this file
BACKENDS: tuple[Literal["torch", "triton"], ...] = ("torch", "triton")


def versions() -> dict[str, str]:
    """Return the version of Python and of each package, or ``"not installed"``."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def revision(folder: Path) -> str:
    """Return the git revision of a folder, marked where files differ from it, or why there is none."""
    carried = folder / REVISION
    if not (folder / ".git").exists() and carried.exists():
        return carried.read_text().strip()
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not available: {type(error).__name__}"
    return found.stdout.strip()


def devices() -> list[str]:
    """Return a line for the CPU and one for each CUDA device."""
    lines = [f"cpu: {platform.machine()}, {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        lines.append(
            f"cuda:{index}: {properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.0f} GiB"
        )
    return lines


def backends() -> dict[str, str]:
    """Return for each backend of ``FastResUNetPP`` ``"available"``, or why it is not."""
    states: dict[str, str] = {}
    for name in BACKENDS:
        try:
            FastResUNetPP(backend=name)
            states[name] = "available"
        except RuntimeError as error:
            states[name] = f"not available: {error}"
    return states


def describe() -> str:
    """Return everything as text, a line each, to read or to add to a bug report."""
    lines = ["versions", *(f"  {name}: {version}" for name, version in versions().items())]
    lines += ["devices", *(f"  {line}" for line in devices())]
    lines += ["backends", *(f"  {name}: {state}" for name, state in backends().items())]
    return "\n".join(lines)
