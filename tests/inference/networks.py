"""Networks whose folding would show any mistake."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastresunet import ResUNetPP

SMALL: dict[str, Any] = {"filters": (8, 16, 8, 24, 16)}


def hard_network(
    dtype: torch.dtype = torch.float64, network_class: type[ResUNetPP] = ResUNetPP, **arguments: Any
) -> ResUNetPP:
    """Return a network in evaluation mode whose normalisations have gammas of both signs and 0, and any statistics."""
    network = network_class(**{**SMALL, **arguments})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            module.weight.data[::5] = 0
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.2, 3.0)  # type: ignore[arg-type]
    return network.to(dtype).eval()


def mild_network(dtype: torch.dtype = torch.float64, **arguments: Any) -> ResUNetPP:
    """Return a network in evaluation mode as training leaves them: gammas about 1."""
    network = hard_network(torch.float64, **arguments)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.to(dtype)
