"""Compare two networks of the same parameters: outputs, gradients, losses, step time and activation memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastresunet.training.losses import bce_dice_loss

Batch = tuple[Tensor, Tensor]


def output_difference(model: nn.Module, reference: nn.Module, images: Tensor) -> float:
    """Return the largest absolute difference of the outputs, divided by the largest output of the reference.

    Both networks run in the mode they are in; in training mode their running statistics change.

    Args:
        model: network to compare.
        reference: network with the same parameters.
        images: floating tensor (N, C, H, W).
    """
    with torch.no_grad():
        output, expected = model(images).double(), reference(images).double()
    return float((output - expected).abs().max() / expected.abs().max())


def gradient_difference(model: nn.Module, reference: nn.Module, batch: Batch) -> float:
    """Return the largest difference of the gradients of the training loss, relative, over all parameters.

    The difference of one parameter is ``max|g - g_reference| / max|g_reference|``. Parameters with gradients below a
    thousandth of the network's largest are divided by that limit instead: a bias in front of a batch normalisation has
    gradient zero but for rounding.

    Args:
        model: network to compare.
        reference: network with the same parameter names and values.
        batch: images (N, C, H, W) and masks (N, num_classes, H, W).
    """
    gradients, expected = _gradients(model, batch), _gradients(reference, batch)
    floor = 1e-3 * max(gradient.abs().max().item() for gradient in expected.values())
    return max(
        (gradients[name] - gradient).abs().max().item() / max(gradient.abs().max().item(), floor)
        for name, gradient in expected.items()
    )


def loss_curves(models: Sequence[nn.Module], batches: Sequence[Batch], lr: float) -> list[list[float]]:
    """Train each network on the same batches with stochastic gradient descent and record the losses.

    Not with Adam: it divides gradients by their own size and so turns rounding of gradients near 0 into whole steps.

    Args:
        models: networks; they are trained in place.
        batches: one (images, masks) pair a step.
        lr: learning rate.

    Returns:
        For each network its losses, one a step.
    """
    curves = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        losses = []
        model.train()
        for images, masks in batches:
            optimizer.zero_grad()
            loss = bce_dice_loss(model(images), masks)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    return curves


def activation_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without parameters and buffers.

    Every storage counts once and whole, however many saved tensors look into it.

    Args:
        model: network, in the mode to measure.
        images: floating tensor (N, C, H, W).
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    # Holding the storages keeps their addresses from being given to others.
    storages: dict[int, torch.UntypedStorage] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = model(images)
    total = sum(storage.nbytes() for storage in storages.values())
    del output
    return total


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of a training step.

    Args:
        model: seconds of the network.
        reference: seconds of the reference.
    """

    model: float
    reference: float

    @property
    def ratio(self) -> float:
        """Time of the network as a share of the reference's; below 1 it is faster."""
        return self.model / self.reference


def step_times(model: nn.Module, reference: nn.Module, batch: Batch, repeats: int = 10, warmups: int = 2) -> StepTimes:
    """Time a training step (forward, loss, backward, AdamW) of two networks in turn, so that both see the same machine.

    Args:
        model: network to time; it is trained in place.
        reference: network to compare with; it is trained in place.
        batch: images (N, C, H, W) and masks (N, num_classes, H, W).
        repeats: timed steps of each.
        warmups: steps of each before, not timed.
    """
    steps = _training_step(model, batch), _training_step(reference, batch)
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(warmups + repeats):
        for step, times in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            if repeat >= warmups:
                times.append(time.perf_counter() - start)
    return StepTimes(*map(statistics.median, seconds))


def _training_step(model: nn.Module, batch: Batch) -> Callable[[], None]:
    images, masks = batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        bce_dice_loss(model(images), masks).backward()
        optimizer.step()
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    return step


def _gradients(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    images, masks = batch
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(bce_dice_loss(model(images), masks), parameters)
    return {name: gradient.double() for name, gradient in zip(names, gradients, strict=True)}
