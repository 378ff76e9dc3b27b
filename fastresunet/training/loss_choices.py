"""The losses that a recipe can choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fastresunet.training.losses import bce_dice_loss, cross_entropy_dice_loss
from fastresunet.training.recipe import Loss

SegmentationLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def choose_loss(name: Loss, outputs: int = 1) -> SegmentationLoss:
    """Return a loss: it maps logits (N, outputs, H, W) and masks (N, 1, H, W) to a scalar, computed in float32.

    Probabilities are sigmoids of one output, and softmax over several, of which the first is the background: it has a
    part in cross-entropies, and none in measures of overlap.

    Args:
        name: ``"bce-dice"``, see ``bce_dice_loss`` and ``cross_entropy_dice_loss``; ``"dice"``, the mean soft Dice loss
            of the images; ``"tversky"``, where a pixel that is missed weighs more than one that is found in vain, 0.7
            to 0.3 as in Salehi et al. 2017; ``"focal"``, cross-entropy in which clear pixels weigh less, with the
            exponent 2 of Lin et al. 2017.
        outputs: of the network.
    """
    several = outputs > 1
    if name == "bce-dice":
        return cross_entropy_dice_loss if several else bce_dice_loss
    # Slow to import, and needed by these only.
    from monai.losses import DiceLoss, FocalLoss, TverskyLoss  # noqa: PLC0415

    if name == "focal":
        return _in_float32(FocalLoss(gamma=2.0, use_softmax=several, to_onehot_y=several))
    overlap = {
        "sigmoid": not several,
        "softmax": several,
        "to_onehot_y": several,
        "include_background": not several,
        "smooth_nr": 1.0,
        "smooth_dr": 1.0,
    }
    return _in_float32(DiceLoss(**overlap) if name == "dice" else TverskyLoss(**overlap, alpha=0.3, beta=0.7))


def _in_float32(loss: SegmentationLoss) -> SegmentationLoss:
    def computed(logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return loss(logits.float(), target.float())

    return computed
