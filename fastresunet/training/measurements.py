"""What a predicted mask says in numbers: area, place and confidence."""

from __future__ import annotations

from torch import Tensor

MEASUREMENTS = ("area", "share", "left", "top", "right", "bottom", "confidence", "highest")


def measure(mask: Tensor, probability: Tensor | None) -> list[str]:
    """Return the measurements of a mask in the order of ``MEASUREMENTS``.

    ``area`` is in pixels and ``share`` that of the image. The smallest box around the mask reaches from column ``left``
    and row ``top``, counted from 0, to before ``right`` and ``bottom``, so that ``right - left`` is its width.
    ``confidence`` is the mean probability in the mask, ``highest`` the highest one in the image. An empty mask has no
    box and no confidence, and probabilities that are not known give no confidences: their cells are empty.

    Args:
        mask: bool tensor (H, W).
        probability: float tensor (H, W) in 0..1; None if not known.
    """
    area = int(mask.sum())
    box = [""] * 4
    if area:
        rows, columns = (mask.any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
        box = [str(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
    confidence = "" if probability is None or not area else f"{float(probability[mask].mean()):.4f}"
    highest = "" if probability is None else f"{float(probability.max()):.4f}"
    return [str(area), f"{area / mask.numel():.6f}", *box, confidence, highest]
