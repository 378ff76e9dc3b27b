"""Inference: folding a trained network, running the folded one fast, and exporting it."""

from fastresunet.inference.engines import compile_for_cpu
from fastresunet.inference.exporting import export
from fastresunet.inference.extras import ExportError
from fastresunet.inference.folding import fold
from fastresunet.inference.macs import MacCount, count_macs
from fastresunet.inference.network import FoldedResUNetPP

__all__ = ["ExportError", "FoldedResUNetPP", "MacCount", "compile_for_cpu", "count_macs", "export", "fold"]
