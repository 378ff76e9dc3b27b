"""ResUNet++ as a drop-in PyTorch module: the published numbers from fused operations."""

from fastresunet.checkpoints import load
from fastresunet.cuda_graphs import GraphedInference, GraphedTrainingStep
from fastresunet.errors import CheckpointError
from fastresunet.inference import fold
from fastresunet.keras import KerasResUNetPP, load_keras
from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP

__all__ = [
    "CheckpointError",
    "FastResUNetPP",
    "GraphedInference",
    "GraphedTrainingStep",
    "KerasResUNetPP",
    "ResUNetPP",
    "__version__",
    "fold",
    "load",
    "load_keras",
]

__version__ = "0.1.0"
