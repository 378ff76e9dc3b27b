"""What the kernels compute; the rest is told by an exception, so that the caller can choose another way."""

from __future__ import annotations

from torch import Tensor

_LARGEST_SAMPLE = 2**31


def check_supported(
    data: list[Tensor], upsample: list[bool], pool: bool, stride: int, dilation: int, sample_size: int
) -> None:
    """Raise a ``NotImplementedError`` that names what the kernels cannot do.

    Args:
        data: sources (N, C, H, W).
        upsample: whether each is read at twice its resolution.
        pool: whether the result is pooled.
        stride: of the convolution.
        dilation: of the convolution.
        sample_size: elements of one sample before pooling; they must be addressable with 32 bits, as those of the
            sources.
    """
    if len(data) > 2:
        raise NotImplementedError(f"{len(data)} sources in one convolution")
    if pool and any(upsample):
        raise NotImplementedError("pooling of an upsampled source")
    if stride == 2 and dilation > 1:
        raise NotImplementedError("stride 2 together with a dilation")
    if max(sample_size, *(x.shape[1:].numel() for x in data)) >= _LARGEST_SAMPLE:
        raise NotImplementedError("a sample of 2^31 elements or more")
