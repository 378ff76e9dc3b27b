"""The fused operations in plain PyTorch, for any device: what every faster backend is held against."""

from fastresunet.ops.torch_backend.batch_affine import batch_affine, batch_affine_backward, conv_batch_affine
from fastresunet.ops.torch_backend.conv import conv, conv_backward, conv_gradients, pack_weights
from fastresunet.ops.torch_backend.conv_norm_sum import branch_gradient, conv_norm_sum, conv_norm_sum_backward
from fastresunet.ops.torch_backend.excitation import conv_excitation, excitation, excitation_backward
from fastresunet.ops.torch_backend.folded import folded_conv, folded_excited_conv, folded_pyramid
from fastresunet.ops.torch_backend.statistics import channel_statistics, statistics_gradient

__all__ = [
    "batch_affine",
    "batch_affine_backward",
    "branch_gradient",
    "channel_statistics",
    "conv",
    "conv_backward",
    "conv_batch_affine",
    "conv_excitation",
    "conv_gradients",
    "conv_norm_sum",
    "conv_norm_sum_backward",
    "excitation",
    "excitation_backward",
    "folded_conv",
    "folded_excited_conv",
    "folded_pyramid",
    "pack_weights",
    "statistics_gradient",
]
