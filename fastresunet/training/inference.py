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
DEFAULT_THRESHOLD = 0.5
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


def to_probabilities(logits: Tensor) -> Tensor:
    """Return probabilities of logits: by sigmoid of one channel, and by softmax over several.

    Args:
        logits: floating tensor (N, K, ...).
    """
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def class_numbers(logits: Tensor) -> Tensor:
    """Return the likeliest class of each pixel; 0 is the background.

    Args:
        logits: tensor (N, K, H, W), of the foreground alone or of all classes.

    Returns:
        uint8 tensor (N, H, W).
    """
    return (logits[:, 0] > 0).to(torch.uint8) if logits.shape[1] == 1 else logits.argmax(1).to(torch.uint8)


def decide(probabilities: Tensor, threshold: float) -> Tensor:
    """Return the class of each pixel of an image; 0 is the background.

    Args:
        probabilities: float tensor (K, H, W), of the foreground alone or of all classes.
        threshold: a pixel is foreground where its probability is above this. Of several classes the likeliest is taken.

    Returns:
        uint8 tensor (H, W).
    """
    if len(probabilities) == 1:
        return (probabilities[0] > threshold).to(torch.uint8)
    return probabilities.argmax(0).to(torch.uint8)


def predict_probability(model: nn.Module, image: Tensor, size: int) -> Tensor:
    """Predict the probability of each class for each pixel of an image; ``predict_probabilities`` says how.

    Args:
        model: network in evaluation mode, logits (N, K, H, W) out.
        image: uint8 tensor (channels, H, W) on the CPU.
        size: height and width for the network, in pixels.

    Returns:
        float32 tensor (K, H, W) in 0..1 on the CPU.

    Raises:
        FloatingPointError: the network gives values that are not finite.
    """
    return predict_probabilities(model, [image], size)[0]


@torch.inference_mode()
def predict_probabilities(model: nn.Module, images: Sequence[Tensor], size: int) -> list[Tensor]:
    """Predict the probability of each class for each pixel of several images, in one batch.

    Images are stretched to ``size``, as in training; the logits are stretched back before they become probabilities.

    Args:
        model: network in evaluation mode, logits (N, K, H, W) out.
        images: uint8 tensors (channels, H, W) on the CPU, each of its own size.
        size: height and width for the network, in pixels.

    Returns:
        float32 tensors (K, H, W) in 0..1 on the CPU, in the order of the images.

    Raises:
        FloatingPointError: the network gives values that are not finite.
    """
    device = next(model.parameters()).device
    inputs = torch.stack([to_network_input(resize_image(image, size)) for image in images]).to(device)
    logits = check_finite(model(inputs).float())
    return [
        to_probabilities(F.interpolate(logits[i : i + 1], image.shape[1:], mode="bilinear"))[0].cpu()
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
