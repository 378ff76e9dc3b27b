"""The losses that a recipe can choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fastresunet.training.losses import bce_dice_loss
from fastresunet.training.recipe import Loss

SegmentationLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def choose_loss(name: Loss) -> SegmentationLoss:
    """Return a loss: it maps logits (N, C, H, W) and masks of the same shape to a scalar, computed in float32.

    Args:
        name: ``"bce-dice"``, see ``bce_dice_loss``; ``"dice"``, the mean soft Dice loss of the images; ``"tversky"``,
            where a pixel of a polyp that is missed weighs more than one that is taken for a polyp, 0.7 to 0.3 as in
            Salehi et al. 2017; ``"focal"``, cross-entropy in which clear pixels weigh less, with the exponent 2 of Lin
            et al. 2017.
    """
    if name == "bce-dice":
        return bce_dice_loss
    # Slow to import, and needed by these only.
    from monai.losses import DiceLoss, FocalLoss, TverskyLoss  # noqa: PLC0415

    if name == "dice":
        return _in_float32(DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0))
    if name == "tversky":
        return _in_float32(TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0))
    return _in_float32(FocalLoss(gamma=2.0))


def _in_float32(loss: SegmentationLoss) -> SegmentationLoss:
    def computed(logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return loss(logits.float(), target.float())

    return computed
