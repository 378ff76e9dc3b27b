"""What a predicted mask says in numbers: area, place and confidence."""

from __future__ import annotations

from torch import Tensor

from fastresunet.training.data_format import DataFormat

MEASUREMENTS = ("area", "share", "left", "top", "right", "bottom", "confidence", "highest")


def measured_columns(form: DataFormat) -> tuple[str, ...]:
    """Return the columns of ``measure``: the class, where there are several, before ``MEASUREMENTS``.

    Args:
        form: of the masks.
    """
    return (*(("class",) if form.classes else ()), *MEASUREMENTS)


def measure(mask: Tensor, probabilities: Tensor | None, form: DataFormat) -> list[list[str]]:
    """Return the measurements of a mask, a row a class but the background, in the order of ``measured_columns``.

    ``area`` is in pixels and ``share`` that of the image. The smallest box around them reaches from column ``left``
    and row ``top``, counted from 0, to before ``right`` and ``bottom``, so that ``right - left`` is its width.
    ``confidence`` is the mean probability in the area, ``highest`` the highest one in the image. What is nowhere has no
    box and no confidence, and probabilities that are not known give no confidences: their cells are empty.

    Args:
        mask: class of each pixel, uint8 tensor (H, W).
        probabilities: float tensor (K, H, W) in 0..1, of the foreground alone or of all classes; None if not known.
        form: of the mask.
    """
    names = form.foreground_names
    rows = []
    for number, name in enumerate(names, start=1):
        # Without the background, or with it before all others.
        probability = None if probabilities is None else probabilities[number - len(names) - 1]
        rows.append([*([name] if form.classes else []), *_measure(mask == number, probability)])
    return rows


def _measure(area: Tensor, probability: Tensor | None) -> list[str]:
    count = int(area.sum())
    box = [""] * 4
    if count:
        rows, columns = (area.any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
        box = [str(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
    confidence = "" if probability is None or not count else f"{float(probability[area].mean()):.4f}"
    highest = "" if probability is None else f"{float(probability.max()):.4f}"
    return [str(count), f"{count / area.numel():.6f}", *box, confidence, highest]
