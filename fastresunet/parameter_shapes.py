"""What the names and shapes of parameters say about their network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

PUBLISHED_SE_REDUCTION = 8
# Parameters do not say their dilation rates; those of four branches are the published ones.
ASPP_BRANCHES = 4
NAMED_PARAMETERS = 3


def network_arguments(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of the network that parameters belong to; the dilation rates are the published ones.

    Args:
        state: ``state_dict`` of a ResUNet++.

    Raises:
        KeyError: a parameter is missing.
        IndexError: a parameter has too few dimensions.
        ValueError: no network has these shapes, or its dilation rates are unknown.
    """
    branches = sum(re.fullmatch(r"b1\.c\d+\.0\.weight", name) is not None for name in state)
    if branches not in (0, ASPP_BRANCHES):
        raise ValueError(
            f"it has {branches} ASPP branches, whose dilation rates the file does not say; only the published "
            f"{ASPP_BRANCHES} are known (in Python, FastResUNetPP(aspp_rates=...).load_state_dict reads it)"
        )
    filters = [state[f"{name}.c2.0.weight"].shape[0] for name in ("c1", "c2", "c3", "c4")]
    hidden = [state[f"{name}.attn.net.0.weight"].shape[0] for name in ("c1", "c2", "c3", "c4")]
    # Several reductions may give the same layers; the published one is named where it does.
    candidates = (PUBLISHED_SE_REDUCTION, *range(1, min(filters) + 1))
    reduction = next((r for r in candidates if [width // r for width in filters] == hidden), None)
    if reduction is None:
        raise ValueError(f"squeeze-and-excitation layers of {hidden} channels do not fit blocks of {filters}")
    return {
        "in_channels": state["c1.c2.0.weight"].shape[1],
        "num_classes": state["output.weight"].shape[0],
        "filters": (*filters, state[f"b1.c{ASPP_BRANCHES + 1}.weight"].shape[0]),
        "se_reduction": reduction,
    }


def check_names(names: Iterable[str], expected: Iterable[str]) -> None:
    """Compare the names of parameters.

    Args:
        names: those of a file.
        expected: those of the network.

    Raises:
        ValueError: some are missing or unexpected; the message names the first of them.
    """
    found, wanted = set(names), set(expected)
    for kind, odd in (("missing", wanted - found), ("unexpected", found - wanted)):
        if odd:
            listed = ", ".join(map(repr, sorted(odd)[:NAMED_PARAMETERS]))
            more = f" and {len(odd) - NAMED_PARAMETERS} more" if len(odd) > NAMED_PARAMETERS else ""
            raise ValueError(f"{kind} parameter {listed}{more}")
