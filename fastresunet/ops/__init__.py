"""Fused, differentiable operations on feature maps, registered with PyTorch."""

from fastresunet.ops.attention import AttentionParameters, attention_gate
from fastresunet.ops.backend import Backend, check_backend
from fastresunet.ops.batch_affine import Moments, batch_affine
from fastresunet.ops.branch import Branch
from fastresunet.ops.convolution import ConvOutput, conv
from fastresunet.ops.excitation import excitation
from fastresunet.ops.maps import Maps
from fastresunet.ops.normalized_sum import conv_norm_sum
from fastresunet.ops.residual import ResidualParameters, residual_block
from fastresunet.ops.source import Source, accumulation_dtype
from fastresunet.ops.statistics import channel_statistics

__all__ = [
    "AttentionParameters",
    "Backend",
    "Branch",
    "ConvOutput",
    "Maps",
    "Moments",
    "ResidualParameters",
    "Source",
    "accumulation_dtype",
    "attention_gate",
    "batch_affine",
    "channel_statistics",
    "check_backend",
    "conv",
    "conv_norm_sum",
    "excitation",
    "residual_block",
]
