"""An optimiser's step without a word from the host, and without a change of what its owner sees."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer


class CapturableStep:
    """The step of an optimiser, with its learning rates and counters on the device.

    The parameter groups stay as they are: learning rates remain numbers that schedulers set and checkpoints hold. Only
    during the step ``lr`` is a tensor, and ``capturable`` true, with which PyTorch computes it without the host.

    Args:
        optimizer: of ``torch.optim``, with the option ``capturable``, or fused SGD.

    Raises:
        TypeError: it is no optimiser that can be captured.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"the optimiser must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        needed = "fused" if isinstance(optimizer, SGD) else "capturable"
        for group in optimizer.param_groups:
            if needed not in group or (needed == "fused" and not group["fused"]):
                raise TypeError(
                    f"this {type(optimizer).__name__} cannot be captured in a CUDA graph: its step needs numbers on "
                    "the host. Use one with the option capturable, such as torch.optim.AdamW(..., fused=True), or "
                    "torch.optim.SGD(..., fused=True)."
                )
        self.optimizer = optimizer
        self._rates: list[Tensor] = []
        self._written: list[float] = []

    def write_rates(self, device: torch.device) -> None:
        """Bring learning rates that were changed to the device; to be called before every step, outside of a graph."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        if len(rates) != len(self._rates) or any(rate.device != device for rate in self._rates):
            self._rates = [torch.empty((), device=device) for _ in rates]
            self._written = []
        if rates != self._written:
            for tensor, rate in zip(self._rates, rates, strict=True):
                tensor.fill_(rate)
            self._written = rates

    def __call__(self) -> None:
        """Make the step; it launches, and nothing else, from the second time on."""
        # Steps without ``capturable`` count on the host.
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.device != parameter.device:
                    state[name] = value.to(parameter.device)
        with self._on_device(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True", UserWarning)
            self.optimizer.step()

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        before = [dict(group) for group in groups]
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = True
            yield
        finally:
            for group, options in zip(groups, before, strict=True):
                group.update(options)
