"""The training loss: cross-entropy plus Dice, of one class against the background or of several."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bce_dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Return the mean binary cross-entropy plus the mean soft Dice loss of the images.

    The Dice loss of one image is ``1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)``, summed over classes and
    pixels, with ``p = sigmoid(logits)``. It is computed in float32 whatever the autocast state, as the sums overflow
    float16. ``smooth`` keeps value and gradient finite where a mask is empty.

    Args:
        logits: network output (N, C, H, W), any floating dtype.
        target: true mask (N, C, H, W), 0 or 1, any dtype.
        smooth: pixels added to numerator and denominator of the Dice coefficient.

    Returns:
        float32 scalar.

    Raises:
        ValueError: ``logits`` and ``target`` differ in shape.
    """
    if logits.shape != target.shape:
        raise ValueError(
            f"logits and target must have the same shape, got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), target.float()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
        probability = logits.sigmoid().flatten(1)
        target = target.flatten(1)
        overlap = (probability * target).sum(1)
        dice = (2 * overlap + smooth) / (probability.sum(1) + target.sum(1) + smooth)
        return cross_entropy + (1 - dice).mean()


def cross_entropy_dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Return the mean cross-entropy plus the mean soft Dice loss of the images and their classes.

    As ``bce_dice_loss``, with ``p = softmax(logits)``; the Dice loss is of each class but 0, the background.

    Args:
        logits: network output (N, C, H, W), any floating dtype.
        target: class of each pixel, (N, 1, H, W), 0 to C - 1, any dtype.
        smooth: pixels added to numerator and denominator of the Dice coefficient.

    Returns:
        float32 scalar.

    Raises:
        ValueError: ``target`` has another shape.
    """
    expected = (len(logits), 1, *logits.shape[2:])
    if target.shape != expected:
        raise ValueError(f"target must have shape {expected}, got {tuple(target.shape)}")
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), target.long()
        cross_entropy = F.cross_entropy(logits, target[:, 0])
        probability = logits.softmax(1)[:, 1:].flatten(2)
        # Not one_hot, which looks at the values and so makes the host wait for the device.
        classes = torch.arange(1, logits.shape[1], device=logits.device)[:, None, None]
        truth = (target == classes).float().flatten(2)
        overlap = (probability * truth).sum(2)
        dice = (2 * overlap + smooth) / (probability.sum(2) + truth.sum(2) + smooth)
        return cross_entropy + (1 - dice).mean()
