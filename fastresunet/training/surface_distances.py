"""Distances between the outlines of true and predicted masks, by MONAI."""

from __future__ import annotations

import math
import warnings

import scipy  # noqa: F401 - MONAI needs it for these distances, and would say so only at the first image.
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from torch import Tensor

from fastresunet.training.evaluation import SURFACE_DISTANCES


def measure_surface_distances(prediction: Tensor, target: Tensor) -> Tensor:
    """Measure how far the outlines of two masks lie apart.

    Args:
        prediction: bool tensor (H, W), true where foreground is predicted.
        target: bool tensor (H, W), true where foreground is.

    Returns:
        float64 tensor (2,) in pixels, in the order of ``SURFACE_DISTANCES``: the 95th percentile of the Hausdorff
        distance, and the symmetric average surface distance. NaN where a mask is empty and so has no outline.
    """
    if not (prediction.any() and target.any()):
        return torch.full((len(SURFACE_DISTANCES),), math.nan, dtype=torch.float64)
    masks = prediction[None, None], target[None, None]
    with warnings.catch_warnings():
        # MONAI warns of an argument that it gives to itself.
        warnings.simplefilter("ignore", FutureWarning)
        hausdorff = compute_hausdorff_distance(*masks, include_background=True, percentile=95)
        average = compute_average_surface_distance(*masks, include_background=True, symmetric=True)
    return torch.cat([hausdorff, average], dim=1)[0].double()
