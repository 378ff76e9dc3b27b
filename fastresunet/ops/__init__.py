"""Fused, differentiable operations on feature maps, registered with PyTorch."""

from fastresunet.ops.backend import Backend, check_backend
from fastresunet.ops.batch_affine import Moments, batch_affine
from fastresunet.ops.branch import Branch
from fastresunet.ops.convolution import ConvOutput, conv
from fastresunet.ops.excitation import excitation
from fastresunet.ops.normalized_sum import conv_norm_sum
from fastresunet.ops.source import Source, accumulation_dtype
from fastresunet.ops.statistics import channel_statistics

__all__ = [
    "Backend",
    "Branch",
    "ConvOutput",
    "Moments",
    "Source",
    "accumulation_dtype",
    "batch_affine",
    "channel_statistics",
    "check_backend",
    "conv",
    "conv_norm_sum",
    "excitation",
]
