"""Run the network on images of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastresunet.training.errors import UserError
from fastresunet.training.transforms import resize_image, to_network_input

DEFAULT_SIZE = 256
Device = Literal["auto", "cpu", "cuda"]


def choose_device(device: Device) -> torch.device:
    """Return the device to compute on.

    Args:
        device: ``"auto"`` takes CUDA where there is one.

    Raises:
        UserError: CUDA was asked for but is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is available to PyTorch; use --device cpu, or see: fastresunet info")
    return torch.device(device)


@contextmanager
def diverged_checkpoint_named(checkpoint: Path) -> Iterator[None]:
    """Name the checkpoint of a network that gives values that are not finite.

    Args:
        checkpoint: file that the network used inside the block comes from.

    Raises:
        UserError: a prediction raised a ``FloatingPointError`` inside the block.
    """
    try:
        yield
    except FloatingPointError as error:
        raise UserError(
            f"checkpoint {checkpoint} is of no use: {error} (NaN or infinity), so its training has diverged. "
            "Use another checkpoint, or train again with a lower --lr."
        ) from error


def predict_probability(model: nn.Module, image: Tensor, size: int) -> Tensor:
    """Predict the probability of foreground for each pixel of an image; ``predict_probabilities`` says how.

    Args:
        model: network in evaluation mode, logits (N, 1, H, W) out.
        image: uint8 tensor (3, H, W) on the CPU.
        size: height and width for the network, in pixels.

    Returns:
        float32 tensor (H, W) in 0..1 on the CPU.

    Raises:
        FloatingPointError: the network gives values that are not finite.
    """
    return predict_probabilities(model, [image], size)[0]


@torch.inference_mode()
def predict_probabilities(model: nn.Module, images: Sequence[Tensor], size: int) -> list[Tensor]:
    """Predict the probability of foreground for each pixel of several images, in one batch.

    Images are stretched to ``size``, as in training; the logits are stretched back before the sigmoid.

    Args:
        model: network in evaluation mode, logits (N, 1, H, W) out.
        images: uint8 tensors (3, H, W) on the CPU, each of its own size.
        size: height and width for the network, in pixels.

    Returns:
        float32 tensors (H, W) in 0..1 on the CPU, in the order of the images.

    Raises:
        FloatingPointError: the network gives values that are not finite.
    """
    device = next(model.parameters()).device
    inputs = torch.stack([to_network_input(resize_image(image, size)) for image in images]).to(device)
    logits = check_finite(model(inputs).float())
    return [
        F.interpolate(logits[i : i + 1], image.shape[1:], mode="bilinear")[0, 0].sigmoid().cpu()
        for i, image in enumerate(images)
    ]


def check_finite(logits: Tensor) -> Tensor:
    """Return ``logits`` if all are finite.

    Args:
        logits: output of a network.

    Raises:
        FloatingPointError: they are not.
    """
    if not logits.isfinite().all():
        raise FloatingPointError("the network gives values that are not finite")
    return logits
