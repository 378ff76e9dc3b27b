"""Inference: folding a trained network, running the folded one fast, and exporting it."""

from fastresunet.inference.folding import fold
from fastresunet.inference.network import FoldedResUNetPP

__all__ = ["FoldedResUNetPP", "fold"]
