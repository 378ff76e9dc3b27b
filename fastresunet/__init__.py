"""ResUNet++ as a drop-in PyTorch module: the published numbers from fused operations."""

from fastresunet.inference import fold
from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP

__all__ = ["FastResUNetPP", "ResUNetPP", "__version__", "fold"]

__version__ = "0.1.0"
