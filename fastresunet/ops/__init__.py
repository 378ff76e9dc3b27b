"""Fused, differentiable operations on feature maps, registered with PyTorch."""

from fastresunet.ops.convolution import ConvOutput, conv
from fastresunet.ops.normalized_sum import Branch, conv_norm_sum
from fastresunet.ops.source import Source, accumulation_dtype
from fastresunet.ops.statistics import channel_statistics

__all__ = ["Branch", "ConvOutput", "Source", "accumulation_dtype", "channel_statistics", "conv", "conv_norm_sum"]
