"""What is compared: the plain network as strong as PyTorch runs it, and the fast one, with the same ways to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.layers import LayerSubject
from benchmarks.networks import NETWORK, ModuleSubject
from benchmarks.precision import Precision, spacing
from benchmarks.rivals import RIVALS, RivalSubject
from benchmarks.runtimes import RUNTIMES
from benchmarks.work import Computed, Mode, Step, Work, step_of
from fastresunet import fold
from fastresunet.ops import Backend
from fastresunet.reference import ResUNetPP

Subject = ModuleSubject | LayerSubject
BASELINE = "eager"
_PERTURBATIONS = 2
# Guesses on the safe side. Autotuning times a dozen kernels for each shape.
_COMPILING, _TUNING = 90.0, 240.0
_ON_GPUS_ONLY = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Provider:
    """One way to compute a subject.

    Attributes:
        name: in results and tables.
        fast: the fast module or operation; otherwise the plain one.
        channels_last: parameters and inputs in channels-last layout.
        compiled: mode of ``torch.compile``; "" does not compile.
        tuned: lets cuDNN time its algorithms for every shape (``torch.backends.cudnn.benchmark``).
        graph: replays the whole step from one CUDA graph.
        folded: ``fastresunet.fold`` of the network, for evaluation.
        runtime: what runs an exported network in PyTorch's place, see ``benchmarks.runtimes``.
        rival: another network for the same task, see ``benchmarks.rivals``; its results are not compared.
        build_seconds: roughly what it takes before the first step of the network: not begun when less time is left.
    """

    name: str
    fast: bool = False
    channels_last: bool = False
    compiled: str = ""
    tuned: bool = False
    graph: bool = False
    folded: bool = False
    runtime: str = ""
    rival: str = ""
    build_seconds: float = 0.0

    def applies(self, subject: Subject, mode: Mode, device: torch.device) -> bool:
        """Return whether it makes sense for a subject on a device."""
        whole = isinstance(subject, ModuleSubject) and subject.name == NETWORK
        if (self.folded or self.runtime) and not (whole and mode == "evaluation"):
            return False
        if self.rival and not whole:
            return False
        if self.runtime and RUNTIMES[self.runtime].device != device.type:
            return False
        if isinstance(subject, LayerSubject) and self.channels_last and not self.compiled:
            return False  # features of single operations are channels-last anyway
        graphs = self.graph or self.compiled in _ON_GPUS_ONLY
        return device.type == "cuda" or not graphs

    @property
    def missing(self) -> str:
        """What has to be installed before it works, "" for nothing."""
        if self.rival:
            return RIVALS[self.rival].missing
        return RUNTIMES[self.runtime].missing if self.runtime else ""


PLAIN = (
    Provider(BASELINE),
    Provider("channels_last", channels_last=True, tuned=True),
    Provider("channels_last + CUDA graph", channels_last=True, tuned=True, graph=True),
    Provider("eager + CUDA graph", graph=True),
    Provider("compile", channels_last=True, compiled="default", build_seconds=_COMPILING),
    Provider("compile + CUDA graphs", channels_last=True, compiled="reduce-overhead", build_seconds=_COMPILING),
    Provider("compile max-autotune", channels_last=True, compiled="max-autotune-no-cudagraphs", build_seconds=_TUNING),
    Provider("compile max-autotune + CUDA graphs", channels_last=True, compiled="max-autotune", build_seconds=_TUNING),
    *(Provider(name, runtime=name, build_seconds=_COMPILING) for name in RUNTIMES),
    *(Provider(name, channels_last=True, tuned=True, rival=name) for name in RIVALS),
    *(
        Provider(f"{name} + compile", channels_last=True, compiled="default", rival=name, build_seconds=_COMPILING)
        for name in RIVALS
    ),
)
FAST = (
    Provider("FastResUNetPP", fast=True),
    Provider("FastResUNetPP + CUDA graph", fast=True, graph=True),
    Provider("FastResUNetPP + compile", fast=True, compiled="default", build_seconds=_COMPILING),
    Provider("folded", fast=True, folded=True),
    Provider("folded + CUDA graph", fast=True, folded=True, graph=True),
    Provider("folded + compile", fast=True, folded=True, compiled="default", build_seconds=_COMPILING),
    *(
        Provider(f"folded + {name}", fast=True, folded=True, runtime=name, build_seconds=_COMPILING)
        for name in RUNTIMES
    ),
)
PROVIDERS = {provider.name: provider for provider in (*PLAIN, *FAST)}


def build(
    provider: Provider,
    subject: Subject,
    mode: Mode,
    precision: Precision,
    batch: int,
    size: int,
    device: torch.device,
    backend: Backend = "auto",
) -> Computed:
    """Return a step, ready to run.

    Args:
        provider: how to compute; it applies, and nothing is missing.
        subject: what to compute.
        mode: how much of it.
        precision: in which arithmetic.
        batch: images; a ``LayerSubject`` has its own.
        size: their height and width in pixels; a ``LayerSubject`` has its own.
        device: where.
        backend: of the fast computation.
    """
    work = _work(provider, subject, mode, precision, batch, size, device, backend)
    step = step_of(work, mode, precision)
    if provider.tuned:
        step = _TunedStep(step)
    if provider.graph:
        return GraphedStep(step)
    return _MarkedStep(step) if provider.compiled in ("reduce-overhead", "max-autotune") else step


def exact_step(subject: Subject, mode: Mode, precision: Precision, batch: int, size: int, device: torch.device) -> Step:
    """Return the plain computation in float64, on the numbers that ``precision`` starts from."""
    if isinstance(subject, ModuleSubject):
        inputs = rounded_inputs(subject, precision, batch, size)
        work = subject.work(False, mode, inputs, device, dtype=torch.float64)
    else:
        work = subject.work(False, mode, precision.features, device, dtype=torch.float64)
    return step_of(work, mode, EXACT)


def plain_steps(
    subject: Subject, mode: Mode, precision: Precision, batch: int, size: int, device: torch.device
) -> Iterator[Step]:
    """Yield the plain computation in ways in which rounding falls differently: its layout, its input's last bits."""
    eager = PROVIDERS[BASELINE]
    for provider in (eager, PROVIDERS["channels_last"]):
        if provider.applies(subject, mode, device):
            yield step_of(_work(provider, subject, mode, precision, batch, size, device, "torch"), mode, precision)
    for seed in range(_PERTURBATIONS):
        if isinstance(subject, LayerSubject):
            change = (spacing(precision), seed)
            work = subject.work(False, mode, precision.features, device, perturbed=change)
        else:
            generator = torch.Generator().manual_seed(seed)
            inputs = [
                (x * (1 + spacing(precision) * torch.randn(x.shape, generator=generator))).to(x.dtype)
                for x in rounded_inputs(subject, precision, batch, size)
            ]
            work = subject.work(False, mode, inputs, device)
        yield step_of(work, mode, precision)


# Without autocast; the operands' dtype decides.
EXACT = Precision("fp64", torch.float32, tf32=False)


def rounded_inputs(subject: ModuleSubject, precision: Precision, batch: int, size: int) -> list[Tensor]:
    """Return the inputs of a module; a block's features are in the dtype that the network gives them."""
    inputs = subject.inputs(batch, size)
    return inputs if subject.name in (NETWORK, "c1") else [x.to(precision.features) for x in inputs]


def _work(
    provider: Provider,
    subject: Subject,
    mode: Mode,
    precision: Precision,
    batch: int,
    size: int,
    device: torch.device,
    backend: Backend,
) -> Work:
    if isinstance(subject, LayerSubject):
        compile_it: Any = _compiler(provider)
        return subject.work(provider.fast, mode, precision.features, device, backend=backend, transform=compile_it)
    inputs = rounded_inputs(subject, precision, batch, size)
    if provider.rival:
        subject = RivalSubject(subject.name, rival=RIVALS[provider.rival])

    def transform(module: nn.Module) -> nn.Module:
        if provider.folded:
            assert isinstance(module, ResUNetPP)
            module = fold(module).eval()
        if provider.channels_last:
            module = module.to(memory_format=torch.channels_last)
        compiled: nn.Module = _compiler(provider)(module)
        return compiled

    work = subject.work(provider.fast, mode, inputs, device, backend=backend, transform=transform)
    if provider.runtime:
        return replace(work, function=RUNTIMES[provider.runtime].compile(work, precision))
    if not provider.channels_last:
        return work
    wanted = [x.requires_grad for x in work.arguments]
    arguments = [x.detach().contiguous(memory_format=torch.channels_last) for x in work.arguments]
    arguments = [x.requires_grad_(gradient) for x, gradient in zip(arguments, wanted, strict=True)]
    parameters = work.leaves[: len(work.leaves) - sum(wanted)] if mode == "training" else work.leaves
    return replace(
        work,
        arguments=tuple(arguments),
        leaves=[*parameters, *(x for x in arguments if x.requires_grad and mode == "training")],
    )


def _compiler(provider: Provider) -> Callable[[Any], Any]:
    if not provider.compiled:
        return lambda function: function
    # Each case is compiled for its own shapes, as a user with one image size does.
    return lambda function: torch.compile(function, mode=provider.compiled, dynamic=False)


class GraphedStep:
    """A step captured once in a CUDA graph and replayed on every call; outputs and gradients stay in place.

    The step drops the gradients before it computes new ones, so that those lie in the graph's own memory, and autocast
    keeps no casts between calls (``Precision.active``): both would otherwise be read from memory that is reused.

    Args:
        step: to capture; it runs a few times on a stream of its own first.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        side = torch.cuda.Stream(step.work.device)
        side.wait_stream(torch.cuda.current_stream(step.work.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream(step.work.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as a compiler's, may use the device meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = step()

    @property
    def work(self) -> Work:
        """The captured computation."""
        return self.step.work

    @property
    def mode(self) -> Mode:
        """The mode of the captured step."""
        return self.step.mode

    def __call__(self) -> list[Tensor]:
        """Replay the step and return its outputs, which the next replay overwrites."""
        self._graph.replay()
        return self._outputs


class _TunedStep(Step):
    """A step in which cuDNN times its algorithms, at the first call for each shape."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.work, step.mode, step.precision, step.gradients)

    def __call__(self) -> list[Tensor]:
        saved = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            return super().__call__()
        finally:
            torch.backends.cudnn.benchmark = saved


class _MarkedStep(Step):
    """A step of a compiled function with CUDA graphs of its own, told where a step begins."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.work, step.mode, step.precision, step.gradients)

    def __call__(self) -> list[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return super().__call__()
