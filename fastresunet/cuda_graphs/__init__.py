"""CUDA graphs: a training step or an inference pass, captured for a shape and replayed by one call of the driver."""

from fastresunet.cuda_graphs.capture import CaptureError
from fastresunet.cuda_graphs.inference import GraphedInference
from fastresunet.cuda_graphs.training import GraphedTrainingStep

__all__ = ["CaptureError", "GraphedInference", "GraphedTrainingStep"]
