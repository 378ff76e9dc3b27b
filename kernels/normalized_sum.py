"""Launchers of the sum of normalised convolutions, with the schemas of ``conv_norm_sum`` and its backward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .branches import branch_kernel
from .choice import choose
from .config import Config, Layer, arithmetic
from .convolution import empty_image, is_exact, source_arguments, windows
from .launch import launch
from .output_gradient import OutputGradient
from .pack import pack_branches
from .rounding import cdiv
from .source_gradients import source_gradients
from .statistics import merge_statistics
from .sum_parts import sum_parts
from .supported import check_supported


@dataclass(frozen=True)
class _Branches:
    """Sources, branches and sizes that all passes share; see the operation's arguments."""

    data: list[Tensor]
    affine: list[Tensor]
    relu: list[bool]
    upsample: list[bool]
    weight: list[Tensor]
    bias: Tensor
    stride: int
    dilation: list[int]
    eps: list[float]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        zoom = 2 if self.upsample[0] else 1
        height, width = ((zoom * size - 1) // self.stride + 1 for size in self.data[0].shape[2:])
        return height, width

    @cached_property
    def outputs(self) -> int:
        """Output channels of a branch."""
        return self.weight[0].shape[0]

    @cached_property
    def packed(self) -> Tensor:
        """The weights as the forward passes read them."""
        channels = [x.shape[1] for x in self.data]
        return pack_branches(self.weight, channels, self.upsample, self.data[0].dtype)

    def check(self) -> None:
        """Raise where the kernels cannot compute this."""
        if len({weight.shape[2:] for weight in self.weight}) > 1:
            raise NotImplementedError("branches of different kernel sizes")
        height, width = self.size
        size = self.outputs * height * width
        check_supported(self.data, self.upsample, False, self.stride, max(self.dilation), size)

    def config(self) -> Config:
        """Return the tile of a pass."""
        first, kernel_size = self.data[0], self.weight[0].shape[2]
        inputs = sum(x.shape[1] for x in self.data)
        height, width = self.size
        return choose(
            Layer(
                "forward",
                first.dtype,
                inputs,
                self.outputs,
                kernel_size,
                self.stride,
                max(self.dilation),
                any(self.upsample),
                False,
                height * width,
            ),
            first.device,
        )

    def tiles(self, config: Config) -> tuple[int, int, int]:
        """Return rows and columns of windows, and how many tiles cover them."""
        height, width = self.size
        window_rows, window_columns = (2, 2) if any(self.upsample) else (config.window_rows, 1)
        # Branches of different dilation have differently many windows; a program without any does nothing.
        rows = max(windows(height, window_rows, rate, False) for rate in self.dilation)
        columns = max(windows(width, window_columns, rate, False) for rate in self.dilation)
        return rows, columns, cdiv(rows * columns, config.block_pixels)

    def run(self, name: str, config: Config, batch_statistics: bool = True, **tensors: Tensor) -> None:
        """Launch one pass; ``tensors`` by the names of the kernel's pointers."""
        data, last = self.data, len(self.data) - 1
        second = last == 1
        (height, width), samples = self.size, data[0].shape[0]
        window = (2, 2) if any(self.upsample) else (config.window_rows, 1)
        rows, columns, tiles = self.tiles(config)
        kernel_size, count = self.weight[0].shape[2], len(self.weight)
        reads = [2 if up and kernel_size == 3 else kernel_size for up in self.upsample]
        exact = all(
            is_exact((samples, self.outputs, height, width), window, rate, config, [x.shape[1] for x in data])
            and windows(height, window[0], rate, False) == rows
            for rate in self.dilation
        )
        pointers = ("gamma_ptr", "beta_ptr", "mean_ptr", "variance_ptr", "grad_ptr", "grad_sum_ptr")
        results = ("count_out", "tile_mean_out", "tile_m2_out", "total_out", "tile_sum_out", "grad_branch_out")
        results += ("grad_bias_out",)
        launch(
            branch_kernel,
            (samples * tiles, cdiv(self.outputs, config.block_out), 1 if name == "sum" else count),
            *source_arguments(data[0], self.affine[0]),
            *(source_arguments(data[1], self.affine[1]) if second else (None, None, 0, 0, 0)),
            self.packed,
            self.bias,
            *(tensors.get(pointer) for pointer in pointers + results),
            samples,
            rows,
            columns,
            tiles,
            height,
            width,
            self.outputs,
            self.stride,
            multiply_adds=count
            * samples
            * self.outputs
            * height
            * width
            * sum(x.shape[1] * read**2 for x, read in zip(data, reads, strict=True)),
            DILATIONS=tuple(self.dilation),
            EPS=tuple(self.eps),
            PASS=name,
            BATCH_STATISTICS=batch_statistics,
            TAPS=reads[0],
            TAPS2=reads[1] if second else 0,
            UPSAMPLE=self.upsample[0],
            UPSAMPLE2=second and self.upsample[1],
            AFFINE=self.affine[0].shape[0],
            AFFINE2=self.affine[last].shape[0],
            RELU=self.relu[0],
            RELU2=self.relu[last],
            WINDOW_ROWS=window[0],
            WINDOW_COLUMNS=window[1],
            STEP=self.stride,
            BLOCK_PIXELS=config.block_pixels,
            BLOCK_IN=config.block_in,
            BLOCK_OUT=config.block_out,
            EXACT=exact,
            num_warps=config.warps,
            num_stages=config.stages,
            **arithmetic(data[0].dtype),
        )


def conv_norm_sum(
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: Tensor,
    stride: int,
    dilation: list[int],
    gamma: Tensor,
    beta: Tensor,
    eps: list[float],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum over branches, and the mean and variance (branches, C) each branch was normalised with."""
    branches = _Branches(data, affine, relu, upsample, weight, bias, stride, dilation, eps)
    branches.check()
    config = config or branches.config()
    if running_mean is None or running_var is None:
        mean, variance = _batch_statistics(branches, config)
    else:
        mean, variance = running_mean, running_var
    height, width = branches.size
    total = empty_image(data[0], branches.outputs, height, width, data[0].dtype)
    branches.run(
        "sum",
        replace(config, window_rows=1),
        gamma_ptr=gamma,
        beta_ptr=beta,
        mean_ptr=mean,
        variance_ptr=variance,
        total_out=total,
    )
    if running_mean is not None:
        return total, gamma.new_empty(0), gamma.new_empty(0)
    return total, mean, variance


def _batch_statistics(branches: _Branches, config: Config) -> tuple[Tensor, Tensor]:
    first, count = branches.data[0], len(branches.weight)
    parts = first.shape[0] * branches.tiles(config)[2]
    number = first.new_empty((count, parts), dtype=torch.int32)
    dtype = torch.promote_types(first.dtype, torch.float32)
    tile_mean, tile_m2 = (first.new_empty((count, parts, branches.outputs), dtype=dtype) for _ in range(2))
    branches.run("statistics", config, count_out=number, tile_mean_out=tile_mean, tile_m2_out=tile_m2)
    return merge_statistics(number, tile_mean, tile_m2, variance=True)


def conv_norm_sum_backward(
    grad: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: list[Tensor],
    bias: Tensor,
    stride: int,
    dilation: list[int],
    gamma: Tensor,
    eps: list[float],
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    needs_sources: bool,
    needs_weight: bool,
    config: Config | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the gradients of data, affine, weight, bias (branches, C) and of gamma and beta (2, branches, C)."""
    branches = _Branches(data, affine, relu, upsample, weight, bias, stride, dilation, eps)
    raw, grad_bias, sums = _raw_gradients(branches, grad, gamma, mean, variance, batch_statistics, config)
    reads = (data, affine, relu, upsample, weight, stride, dilation)
    gradients = source_gradients(raw, *reads, needs_sources, needs_weight, config=config)
    grad_weight = list(gradients.weight.chunk(len(weight))) if needs_weight else [w.new_empty(0) for w in weight]
    return gradients.data, gradients.affine, grad_weight, grad_bias, sums


def branch_gradient(
    grad: Tensor,
    data: list[Tensor],
    affine: list[Tensor],
    relu: list[bool],
    upsample: list[bool],
    weight: Tensor,
    bias: Tensor,
    stride: int,
    dilation: int,
    gamma: Tensor,
    eps: float,
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a single branch: of its raw result, of its bias, and of gamma and beta (2, C).

    Arguments are those of ``conv_norm_sum_backward``, for one branch. The gradients of sources and weight are left to
    ``conv_gradients``.
    """
    branches = _Branches(data, affine, relu, upsample, [weight], bias[None], stride, [dilation], [eps])
    vectors = (gamma[None], mean[None], variance[None])
    raw, grad_bias, sums = _raw_gradients(branches, grad, *vectors, batch_statistics, None)
    return raw.grad[0], grad_bias[0], sums[:, 0]


def _raw_gradients(
    branches: _Branches,
    grad: Tensor,
    gamma: Tensor,
    mean: Tensor,
    variance: Tensor,
    batch_statistics: bool,
    config: Config | None,
) -> tuple[OutputGradient, Tensor, Tensor]:
    """Return the gradients of the branches' raw results, biases (branches, C), and gamma and beta (2, branches, C)."""
    branches.check()
    config = config or branches.config()
    grad = grad.contiguous(memory_format=torch.channels_last)
    vectors: dict[str, Any] = {"mean_ptr": mean, "variance_ptr": variance, "grad_ptr": grad}
    parts = grad.shape[0] * branches.tiles(config)[2]
    count, outputs = len(branches.weight), branches.outputs
    tile_sums = grad.new_empty((2 * count, parts, outputs), dtype=mean.dtype)
    branches.run("reduction", config, tile_sum_out=tile_sums, **vectors)
    sums = sum_parts(tile_sums, mean.dtype).view(2, count, outputs)
    height, width = branches.size
    # A leading dimension of branches before an image in channels-last layout.
    grad_branches = grad.new_empty((count, grad.shape[0], height, width, outputs)).permute(0, 1, 4, 2, 3)
    grad_bias = torch.empty_like(branches.bias)
    branches.run(
        "gradient",
        config,
        batch_statistics,
        gamma_ptr=gamma,
        grad_sum_ptr=sums,
        grad_branch_out=grad_branches,
        grad_bias_out=grad_bias,
        **vectors,
    )
    return OutputGradient(grad_branches, branches.size), grad_bias, sums
