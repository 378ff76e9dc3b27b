"""Which compilations of which kernels the default network launches, found by running it with its launches kept back."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import torch
from fastresunet_kernels import interpreter, launch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from fastresunet.inference import fold
from fastresunet.model import FastResUNetPP

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
VECTOR_BYTES = 16
# What an argument becomes depends on the vendor's backend, but not on the architecture.
_ANY_ARCHITECTURE = {"cuda": GPUTarget("cuda", 80, 32), "hip": GPUTarget("hip", "gfx942", 64)}


class Use(NamedTuple):
    """Where a kernel is launched: dtype and mode of the network, and the layer by its parameter's name."""

    dtype: str
    mode: str
    layer: str


@dataclass
class Variant:
    """One compilation of a kernel: launches that differ in no other way than its arguments' values at run time.

    Attributes:
        module: where the kernel is defined.
        name: of the kernel.
        signature: Triton's type of each parameter.
        constants: values of compile-time constants by their place, as Triton takes them.
        attributes: what is known about arguments by their place, as Triton takes it.
        options: warps and stages.
        image_bytes: bytes that each access to an image can move, by parameter; images of odd channels have none.
        channels: least channels of any image of a launch; of several launches, the largest of these.
        uses: how often it is launched where.
    """

    module: str
    name: str
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]
    image_bytes: dict[str, int] = field(default_factory=dict)
    channels: int = 0
    uses: Counter[Use] = field(default_factory=Counter)

    def constant(self, parameter: str) -> Any:
        """Return the value of a parameter that is constant, ``...`` if it is not."""
        return self.constants.get((list(self.signature).index(parameter),), ...)

    @property
    def run_time_parameters(self) -> list[str]:
        """Parameters that are passed at run time."""
        return [name for name, kind in self.signature.items() if kind != "constexpr"]


class Recorder:
    """Collects the variants of the launches that it sees.

    Args:
        backend: ``"cuda"`` or ``"hip"``.
        batch: samples of an image.
        sizes: rows and columns that images have.
    """

    def __init__(self, backend: str, batch: int, sizes: Sequence[tuple[int, int]]) -> None:
        self.variants: dict[str, Variant] = {}
        self._backend = make_backend(_ANY_ARCHITECTURE[backend])
        self._batch, self._sizes = batch, sizes

    def add(self, seen: Any, use: Use) -> None:
        """Take note of a launch.

        Args:
            seen: the ``Launch``.
            use: where it happens.
        """
        kernel = seen.kernel
        bound, specialization, _ = _binder(kernel, self._backend)(*seen.arguments, **seen.options)
        # The just-in-time compiler's own way from a call to a compilation, except that no device is asked.
        _, signature, constants, attributes = kernel._pack_args(
            self._backend, seen.options, bound, specialization, None
        )
        options = {name: value for name, value in seen.options.items() if name not in signature}
        key = repr((kernel.__module__, kernel.__name__, signature, constants, attributes, options))
        new = Variant(kernel.__module__, kernel.__name__, signature, constants, attributes, options)
        variant = self.variants.setdefault(key, new)
        variant.uses[use] += 1
        arguments = zip(kernel.arg_names, seen.arguments, strict=False)
        images = {name: x for name, x in arguments if isinstance(x, Tensor) and self._is_image(x)}
        if images:
            # Accesses to images of several dtypes move equally many elements, as many as a vector of the widest has.
            elements = VECTOR_BYTES // max(x.element_size() for x in images.values())
            for name, x in images.items():
                if x.shape[-3] % elements == 0:
                    required = elements * x.element_size()
                    variant.image_bytes[name] = max(required, variant.image_bytes.get(name, 0))
            variant.channels = max(variant.channels, min(x.shape[-3] for x in images.values()))

    def _is_image(self, x: Tensor) -> bool:
        """Return whether a tensor is images in channels-last layout, whatever dimensions come before."""
        if x.ndim < 4 or x.shape[-4] != self._batch or tuple(x.shape[-2:]) not in self._sizes:
            return False
        channels = x.shape[-3]
        return channels == 1 or (x.stride(-3) == 1 and x.stride(-1) == channels)


@functools.cache
def _binder(kernel: Any, backend: Any) -> Any:
    return create_function_from_signature(kernel.signature, kernel.params, backend)


class _LayerNames(TorchDispatchMode):
    """Knows the layer whose fused operation runs, forward or backward, by the first of its parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layer = ""
        self._names = {
            p.data_ptr(): name.removesuffix(".weight").removesuffix(".bias") for name, p in model.named_parameters()
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "fastresunet":
            self.layer = next(filter(None, map(self._name, args)), "")
        return func(*args, **(kwargs or {}))

    def _name(self, argument: Any) -> str:
        """Return the name of a parameter, those of the first and the last of several, "" of anything else."""
        values = argument if isinstance(argument, list | tuple) else [argument]
        names = [self._names.get(x.data_ptr(), "") if isinstance(x, Tensor) else "" for x in values]
        if not names or not all(names):
            return ""
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def record_variants(backend: str, dtypes: Sequence[str], batch: int, size: int) -> list[Variant]:
    """Return the variants of a training step, of a forward pass in evaluation mode, and of one of the folded network.

    Args:
        backend: ``"cuda"`` or ``"hip"``.
        dtypes: keys of ``DTYPES``; float32 has TF32 products, the others come from autocast.
        batch: images at a time.
        size: rows and columns of an image, a multiple of 8.
    """
    recorder = Recorder(backend, batch, [(size >> level, size >> level) for level in range(4)])
    for dtype in dtypes:
        model = FastResUNetPP(backend="triton")
        for mode in ("train", "eval"):
            _run(model.train(mode == "train"), recorder, backend, dtype, mode, torch.rand(batch, 3, size, size))
        _run(fold(model, "triton"), recorder, backend, dtype, "folded", torch.rand(batch, 3, size, size))
    return list(recorder.variants.values())


def _run(model: nn.Module, recorder: Recorder, backend: str, dtype: str, mode: str, images: Tensor) -> None:
    layers = _LayerNames(model)

    def see(seen: Any) -> bool:
        recorder.add(seen, Use(dtype, mode, layers.layer))
        return False

    with ExitStack() as contexts:
        contexts.enter_context(mock.patch.object(interpreter, "runs_on_the_cpu", return_value=True))
        # What launchers ask to tell the vendor; no device takes part.
        contexts.enter_context(mock.patch.object(torch.version, "hip", "any" if backend == "hip" else None))
        contexts.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=True))
        contexts.enter_context(torch.set_grad_enabled(mode == "train"))
        contexts.enter_context(launch.observed(see))
        contexts.enter_context(layers)
        with torch.autocast("cpu", dtype=DTYPES[dtype], enabled=dtype != "float32"):
            logits = model(images)
        if mode == "train":
            logits.float().sum().backward()
