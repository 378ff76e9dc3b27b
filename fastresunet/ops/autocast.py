"""Whether autocast is on, asked in a way that every supported ``torch.compile`` can trace."""

from __future__ import annotations

import torch

# Which devices have autocast cannot be asked under torch.compile before PyTorch 2.13.
_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "hpu", "mps", "mtia", "xpu") if torch.amp.is_autocast_available(device)
)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the dtype that autocast computes in on a device such as ``"cuda"``, ``None`` where it is off."""
    if device_type in _DEVICES and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None
