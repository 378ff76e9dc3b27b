"""Training steps from CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from fastresunet.cuda_graphs.baked import Baked
from fastresunet.cuda_graphs.checks import check_is_one_process, device_of
from fastresunet.cuda_graphs.gradients import Gradients
from fastresunet.cuda_graphs.optimizer import CapturableStep
from fastresunet.cuda_graphs.replays import Computation, Replays


class GraphedTrainingStep:
    """A whole training step, captured on GPUs in a CUDA graph: forward, loss, backward, the optimiser's step.

    The first step of a shape is eager, the second one is captured, and from then on it is replayed: one call of the
    driver in place of hundreds of launches. Every call is exactly one step. Parameters, buffers, running statistics and
    the optimiser's state are what eager calls of the same object make of them. Elsewhere than on GPUs every step is
    eager.

    Learning rates may change from step to step, as numbers in ``optimizer.param_groups``, by schedulers too; the model
    may be evaluated, saved and loaded in place in between. Graphs are captured anew when tensors of the model or the
    optimiser were replaced (``.to()``, ``optimizer.load_state_dict``), parameters frozen, or modes, hooks or other
    hyperparameters changed. What else Python decides while the step runs is decided once, at the capture; so are
    effects of hooks on anything but tensors. ``reset`` captures again. Copies, also by ``copy.deepcopy``, begin without
    graphs.

    With a ``scaler`` the graph holds forward and backward only: the scaler looks at the gradients on the host before it
    lets the optimiser, any optimiser, make its step.

    Args:
        model: maps images to logits; as it is, in training or evaluation mode.
        loss: maps logits and targets to a scalar, with nothing read on the host.
        optimizer: its parameters are trained. Without a scaler it needs the option ``capturable``, as AdamW has
            (``fused=True`` makes it one launch), or be SGD with ``fused=True``. The step computes as with
            ``capturable=True`` and a tensor of the learning rate; the groups are left as they are.
        autocast: dtype for ``torch.autocast`` around model and loss; None computes in the parameters' dtype.
        clip_norm: clip the norm of all gradients together to this, see ``torch.nn.utils.clip_grad_norm_``.
        scaler: ``torch.amp.GradScaler`` for float16.
        max_shapes: shapes of images to capture, each with its memory; more are computed eagerly.

    Raises:
        TypeError: the model is no module or one that splits its work over devices or processes, or the optimiser cannot
            be captured.
        ValueError: ``clip_norm`` or ``max_shapes`` is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Optimizer,
        *,
        autocast: torch.dtype | None = None,
        clip_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        max_shapes: int = 8,
    ) -> None:
        check_is_one_process(model)
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {clip_norm}")
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.autocast, self.clip_norm, self.scaler = autocast, clip_norm, scaler
        self._optimizer_step = CapturableStep(optimizer) if scaler is None else None
        self._gradients = Gradients(optimizer)
        self._replays = Replays(max_shapes)
        self._changed_in_place: list[Tensor] = []

    @property
    def captured(self) -> list[tuple[int, ...]]:
        """Shapes of images that are replayed."""
        return self._replays.captured

    def reset(self) -> None:
        """Forget all graphs: needed after changes that they cannot see, such as another constant in the loss."""
        self._replays.reset()

    def __call__(self, images: Tensor, target: Tensor, *, update: bool = True) -> Tensor:
        """Make a training step, or a part of one.

        Args:
            images: (N, C, H, W), as the model takes them; tensors in memory of the host are copied to the model's
                device, pinned ones while the host goes on, so leave them as they are until the step is done.
            target: what the loss takes, treated alike.
            update: make the optimiser's step, from the gradients of this batch and of all since the last update, and
                clear them. False only adds this batch's gradients to the parameters' ``grad``. Divide the loss by the
                number of batches to average over them.

        Returns:
            The loss, a scalar without gradient that later steps leave alone. Reading it waits for the device.

        Raises:
            CaptureError: the step cannot be captured, for instance as the loss reads a value on the host.
            RuntimeError: the parameters have gradients of another origin.
            TypeError: images or target are no tensors.
            ValueError: parameters are on several devices.
        """
        for name, value in (("images", images), ("target", target)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
        device = device_of(self.model)
        # The scaler updates outside of the graph.
        part = _Part(not self._gradients.are_summing(), update and self.scaler is None)
        inputs = [images, target]
        # What surrounds the call would otherwise be captured by chance.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            if self.scaler is not None:
                inputs.append(self.scaler.scale(torch.ones((), device=device)))
            captures = self._replays.captures_on(device)
            if captures and self._optimizer_step is not None:
                self._optimizer_step.write_rates(device)
            loss = self._replays(Computation(partial(self._compute, part), device, self._bake, part), inputs)
            if captures:
                torch.autograd.graph.increment_version(self._changed_in_place)
            # A replay changes the gradients' memory only.
            if part.updates:
                self._gradients.clear()
            else:
                self._gradients.hand_over()
            if update and self.scaler is not None:
                self._update_scaled(self.scaler)
        return loss

    def _compute(self, part: _Part, images: Tensor, target: Tensor, scale: Tensor | None = None) -> Tensor:
        """Compute the part of a step that a graph holds; the parameters' gradients are none before and after."""
        self._gradients.clear()
        try:
            # Casts of weights that autocast remembers would be freed under a graph.
            with torch.autocast(images.device.type, self.autocast, self.autocast is not None, cache_enabled=False):
                loss = self.loss(self.model(images), target)
            (loss if scale is None else loss * scale).backward(inputs=self._gradients.trainable)
            if not (part.starts and part.updates):
                self._gradients.add(part.starts)
            if part.updates:
                self._clip()
                self._update(images.device)
        finally:
            self._gradients.clear()
        return loss.detach()

    def _update(self, device: torch.device) -> None:
        if self._optimizer_step is not None and self._replays.captures_on(device):
            self._optimizer_step()
        else:
            self.optimizer.step()

    def _update_scaled(self, scaler: torch.amp.GradScaler) -> None:
        if self.clip_norm is not None:
            scaler.unscale_(self.optimizer)
            self._clip()
        scaler.step(self.optimizer)
        scaler.update()
        self._gradients.clear()

    def _clip(self) -> None:
        if self.clip_norm is not None:
            clip_grad_norm_(self._gradients.parameters, self.clip_norm)

    def _bake(self) -> Baked:
        modules = [x for x in (self.model, self.loss) if isinstance(x, nn.Module)]
        self._changed_in_place = [*self._gradients.trainable, *(x for module in modules for x in module.buffers())]
        return Baked(modules, self.optimizer if self.scaler is None else None)


class _Part(NamedTuple):
    """What a call does of a step.

    Attributes:
        starts: it is the first since the last update.
        updates: the optimiser's step belongs to it.
    """

    starts: bool
    updates: bool
