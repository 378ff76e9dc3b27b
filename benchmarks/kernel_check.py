"""Check every operation of the network on this machine's device: in its default configuration, and in all selectable.

The operations of a training step and of an evaluation are recorded with the numbers they get there, and each is held
against plain PyTorch in the same precision and in float64. Needs no pytest. Several processes can share the work, which
is mostly compiling.

Run: python -m benchmarks.kernel_check [--precision bf16] [--configurations] [--share 0/8] [--out check.json]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.machine import name_of
from benchmarks.networks import NETWORK, ModuleSubject
from benchmarks.precision import PRECISIONS, Precision, rounding
from benchmarks.work import step_of
from fastresunet import tuning
from fastresunet.ops import Backend
from fastresunet.ops.backend import Call

# How much larger than plain PyTorch's the error may be, in the Euclidean norm.
_FACTOR = 4
# Single elements may be off where rounding turns a ReLU on or off: this share of them, and those of plain PyTorch.
_FLIPPED = 1e-5
# Results smaller than this times the largest of a call may be nothing but rounding.
_NEGLIGIBLE = 1e-3


@dataclass
class Findings:
    """What was checked.

    Attributes:
        device: name of what computed.
        precision: see ``benchmarks.precision``.
        checked: operations and configurations that were compared.
        problems: wrong results and failures, in words.
        unchecked: what there was no time for.
    """

    device: str
    precision: str
    checked: int = 0
    problems: list[str] = field(default_factory=list)
    unchecked: int = 0


def recorded(subject: ModuleSubject, precision: Precision, batch: int, size: int, device: torch.device) -> list[Call]:
    """Return the distinct calls of a training step and an evaluation, computed by PyTorch meanwhile."""
    calls: dict[str, Call] = {}
    for mode in ("training", "evaluation"):
        work = subject.work(True, mode, subject.inputs(batch, size), device, backend="torch")
        step = step_of(work, mode, precision)
        calls |= {f"{mode} {key}": counted.call for key, counted in tuning.record(step).items()}
    return list(calls.values())


def check(
    calls: Iterable[Call],
    precision: Precision,
    findings: Findings,
    *,
    backend: Backend = "triton",
    configurations: bool = False,
    seconds_left: Callable[[], float] = lambda: float("inf"),
) -> None:
    """Compare calls with plain PyTorch and add what was found.

    Args:
        calls: of operations.
        precision: they are made in.
        findings: added to.
        backend: what is checked.
        configurations: check all that can be selected besides the default one.
        seconds_left: after which nothing more is checked.
    """
    for call in calls:
        if seconds_left() <= 0:
            findings.unchecked += 1
            continue
        with torch.no_grad():
            twin, exact = results(call, "torch"), results(in_float64(call), "torch")
            for description, configs in variants(call, backend) if configurations else [("default", {})]:
                if seconds_left() <= 0:
                    findings.unchecked += 1
                    continue
                problem = _problem(call, configs, backend, twin, exact, precision)
                findings.checked += 1
                if problem:
                    findings.problems.append(f"{precision.name} {signature(call)}, {description}: {problem}")


def variants(call: Call, backend: Backend) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield every configuration but the default for each product in a call, described."""
    choice = importlib.import_module("fastresunet_kernels.choice")
    config = importlib.import_module("fastresunet_kernels.config")
    with choice.recorded() as layers:
        results(call, backend)
    for layer in dict.fromkeys(layers):
        for candidate in config.candidates(layer)[1:]:
            yield f"{layer.kind} {candidate}", {layer: candidate}


def results(call: Call, backend: Backend) -> list[Tensor]:
    """Return the floating-point results of a call; positions of maxima are checked by their use."""
    found = tree_leaves(call.compute(backend))
    return [x for x in found if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]


def in_float64(call: Call) -> Call:
    """Return a call with the same numbers in float64."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.double()
        return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value

    return Call(call.name, tuple(tree_map(convert, list(call.operands))))


def difference(found: list[Tensor], twin: list[Tensor], exact: list[Tensor], precision: Precision) -> str:
    """Return what is wrong with results, "" if they are as close to the exact ones as the twin's.

    Args:
        found: to judge.
        twin: of plain PyTorch in the same precision.
        exact: of plain PyTorch in float64.
        precision: of both.
    """
    largest = max(float(x.abs().max()) for x in exact)
    # The longest sums are over all pixels of a batch.
    slack = rounding(precision, max(x.numel() for x in exact))
    for position, (a, b, e) in enumerate(zip(found, twin, exact, strict=True)):
        if a.shape != e.shape:
            return f"result {position} has shape {tuple(a.shape)}, expected {tuple(e.shape)}"
        scale = max(float(e.abs().max()), _NEGLIGIBLE * largest)
        distance, own = (a.double() - e).abs(), (b.double() - e).abs()
        error, reference = (float(d.square().mean().sqrt()) for d in (distance, own))
        allowed = _FACTOR * reference + slack * scale
        # Not "larger": NaN is neither larger nor smaller.
        if not error <= allowed:
            return f"result {position}: error {error:.1e}, allowed {allowed:.1e}, of values up to {scale:.1e}"
        limit = 10 * reference + slack * scale
        beyond, reference_beyond = (int((~(d <= limit)).sum()) for d in (distance, own))
        if beyond > _FACTOR * reference_beyond + 1 + _FLIPPED * e.numel():
            return f"result {position}: {beyond} of {e.numel()} elements are off by more than {limit:.1e}"
    return ""


def signature(call: Call) -> str:
    """Return the operation with the shapes of its images and weights."""
    shapes = ["x".join(map(str, x.shape)) for x in tree_leaves(call.operands) if isinstance(x, Tensor) and x.ndim == 4]
    return f"{call.name}({', '.join(shapes)})"


def _problem(
    call: Call,
    configs: dict[Any, Any],
    backend: Backend,
    twin: list[Tensor],
    exact: list[Tensor],
    precision: Precision,
) -> str:
    with ExitStack() as stack:
        if configs:
            stack.enter_context(importlib.import_module("fastresunet_kernels.choice").forced(configs))
        try:
            return difference(results(call, backend), twin, exact, precision)
        except torch.AcceleratorError:
            raise  # after which the device computes nothing any more
        except Exception as error:  # compilers fail in many ways; each is a finding
            return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def _write(findings: Findings, file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(asdict(findings), indent=1), encoding="utf-8")


def main() -> None:
    """Check, write what was found, and exit with 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="bf16", help="(default: bf16)")
    parser.add_argument("--configurations", action="store_true", help="all that can be selected, not the defaults")
    parser.add_argument("--share", default="0/1", help="which part of how many of the work (default: 0/1)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which nothing more is checked")
    parser.add_argument("--batch-size", type=int, default=2, help="(default: 2)")
    parser.add_argument("--size", type=int, default=256, help="image height and width in pixels (default: 256)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    parser.add_argument("--backend", choices=("triton", "torch"), default="triton", help="(default: triton)")
    parser.add_argument("--out", type=Path, help="file for what was found")
    options = parser.parse_args()
    start, precision, device = time.monotonic(), PRECISIONS[options.precision], torch.device(options.device)
    share, shares = map(int, options.share.split("/"))
    findings = Findings(name_of(device), precision.name)
    try:
        calls = recorded(ModuleSubject(NETWORK), precision, options.batch_size, options.size, device)[share::shares]
        with precision.active(device):
            for call in calls:
                check(
                    [call],
                    precision,
                    findings,
                    backend=options.backend,
                    configurations=options.configurations,
                    seconds_left=lambda: options.seconds - (time.monotonic() - start),
                )
                _write(findings, options.out)
    except torch.AcceleratorError as error:
        findings.problems.append(f"the device failed: {str(error).splitlines()[0]}")
    _write(findings, options.out)
    print(f"{findings.checked} checked on {findings.device}, {findings.unchecked} without time for them")
    for problem in findings.problems:
        print(f"WRONG: {problem}")
    sys.exit(1 if findings.problems else 0)


if __name__ == "__main__":
    main()
