"""Check every operation of the network on this machine's device: in its default configuration, and in all selectable.

The operations of a training step, an evaluation and a folded pass are recorded with the numbers they get there, and
each is held against plain PyTorch in the same precision and in float64. What is checked writes to memory full of NaN,
so that an element nobody wrote shows. Needs no pytest; ``benchmarks.gpu_check`` shares the work among processes.

Run: python -m benchmarks.kernel_check [--precision bf16] [--configurations]
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.machine import name_of
from benchmarks.networks import NETWORK, ModuleSubject
from benchmarks.precision import PRECISIONS, Precision, rounding
from benchmarks.work import Mode, step_of
from fastresunet import fold, tuning
from fastresunet.ops import Backend
from fastresunet.ops.backend import Call, observed_calls
from fastresunet.reference import ResUNetPP

# How much larger than plain PyTorch's the error may be, in the Euclidean norm.
_FACTOR = 4
# Single elements may be off where rounding turns a ReLU on or off: this share of them, and those of plain PyTorch.
_FLIPPED = 1e-5
# Results smaller than this times the largest of a call may be nothing but rounding.
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Variant:
    """A configuration to check a call in.

    Attributes:
        description: "default", or the kind of the product and its configuration.
        configs: forced configuration by layer; empty for the defaults.
    """

    description: str
    configs: dict[Any, Any]


DEFAULT = Variant("default", {})


def recorded(subject: ModuleSubject, precision: Precision, batch: int, size: int, device: torch.device) -> list[Call]:
    """Return the distinct calls of a folded pass, a training step and an evaluation, computed by PyTorch meanwhile."""
    calls: dict[str, Call] = {}
    modes: tuple[tuple[Mode, bool], ...] = (("evaluation", False), ("training", True), ("evaluation", True))
    for mode, fast in modes:
        work = subject.work(fast, mode, subject.inputs(batch, size), device, backend="torch", transform=_folded(fast))
        # While calls are observed, none is repeated from an earlier one.
        with mock.patch.object(Call, "compute", _computed_by_pytorch), observed_calls(lambda call: None):
            found = tuning.record(step_of(work, mode, precision))
        calls |= {f"{mode} {key}": counted.call for key, counted in found.items()}
    return list(calls.values())


def _folded(fast: bool) -> Callable[[nn.Module], nn.Module]:
    def transform(module: nn.Module) -> nn.Module:
        assert isinstance(module, ResUNetPP)
        return module if fast else fold(module, backend="triton")  # whose operations are others than PyTorch's

    return transform


_compute = Call.compute


def _computed_by_pytorch(call: Call, backend: Backend) -> Any:
    return _compute(call, "torch")


class Checker:
    """Holds results of one call against plain PyTorch's.

    Args:
        call: of an operation.
        precision: it is made in.
        backend: what is checked.
    """

    def __init__(self, call: Call, precision: Precision, backend: Backend = "triton") -> None:
        self._call, self._precision, self._backend = call, precision, backend
        self._twin, self._exact = results(call, "torch"), results(in_float64(call), "torch")

    def variants(self) -> Iterator[Variant]:
        """Yield every configuration but the default for each product in the call."""
        choice = importlib.import_module("fastresunet_kernels.choice")
        config = importlib.import_module("fastresunet_kernels.config")
        with choice.recorded() as layers:
            results(self._call, self._backend)
        for layer in dict.fromkeys(layers):
            for candidate in config.candidates(layer)[1:]:
                yield Variant(f"{layer.kind} {candidate}", {layer: candidate})

    def problem(self, variant: Variant) -> str:
        """Return what is wrong with the call in a variant, "" if nothing is.

        Raises:
            Exception: whatever compiling and running it raises.
        """
        with ExitStack() as stack:
            if variant.configs:
                choice = importlib.import_module("fastresunet_kernels.choice")
                stack.enter_context(choice.forced(variant.configs))
            with poisoned():
                found = results(self._call, self._backend)
        if self._call.device.type == "cuda":
            torch.cuda.synchronize(self._call.device)  # a fault is this call's, not that of the comparison
        return difference(found, self._twin, self._exact, self._precision)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory that is allocated inside with NaN. PyTorch ties that to its deterministic algorithms."""
    settings = torch.utils.deterministic
    saved = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(saved[0])
        settings.fill_uninitialized_memory = saved[1]  # type: ignore[attr-defined]


def results(call: Call, backend: Backend) -> list[Tensor]:
    """Return the floating-point results of a call; positions of maxima are checked by their use."""
    with torch.autocast(call.device.type, enabled=False):  # as the operation is called: autocast ends before it
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


def check(calls: Iterable[Call], precision: Precision, backend: Backend, configurations: bool) -> Iterator[str]:
    """Yield for each call and configuration what is wrong, "" if nothing is.

    Args:
        calls: of operations.
        precision: they are made in.
        backend: what is checked.
        configurations: check all that can be selected, not the default one.
    """
    with torch.no_grad():
        for call in calls:
            checker = Checker(call, precision, backend)
            for variant in checker.variants() if configurations else [DEFAULT]:
                try:
                    problem = checker.problem(variant)
                except torch.AcceleratorError:
                    raise  # after which the device computes nothing any more
                except Exception as error:  # compilers fail in many ways; each is a finding
                    problem = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
                yield problem and f"{precision.name} {signature(call)}, {variant.description}: {problem}"


def main() -> None:
    """Check, print what is wrong, and exit with 1 if something is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="bf16", help="(default: bf16)")
    parser.add_argument("--configurations", action="store_true", help="all that can be selected, not the defaults")
    parser.add_argument("--batch-size", type=int, default=2, help="(default: 2)")
    parser.add_argument("--size", type=int, default=256, help="image height and width in pixels (default: 256)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    parser.add_argument("--backend", choices=("triton", "torch"), default="triton", help="(default: triton)")
    options = parser.parse_args()
    precision, device = PRECISIONS[options.precision], torch.device(options.device)
    calls = recorded(ModuleSubject(NETWORK), precision, options.batch_size, options.size, device)
    checked = wrong = 0
    with precision.active(device):
        for problem in check(calls, precision, options.backend, options.configurations):
            checked += 1
            if problem:
                wrong += 1
                print(f"WRONG: {problem}", flush=True)
    print(f"{checked} checked on {name_of(device)}, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
