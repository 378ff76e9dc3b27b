"""Shapes and options that the fused convolution is tested with, chosen to hurt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastresunet.ops import Source, accumulation_dtype
from tests.numerics import hurtful_image


@dataclass(frozen=True)
class ConvCase:
    """Sizes and options of one convolution.

    Attributes:
        name: test id.
        channels: of each source.
        out: output channels.
        size: rows and columns as read.
        kernel: kernel size.
        upsample: of each source.
        affine: sources have an affine and a ReLU.
        scale: sources have a scale alone and no ReLU.
        epilogue: ``"residual"``, ``"gate"``, ``"pool"`` or nothing.
    """

    name: str
    channels: tuple[int, ...] = (8,)
    out: int = 8
    size: tuple[int, int] = (6, 10)
    samples: int = 2
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    upsample: tuple[bool, ...] = (False,)
    affine: bool = True
    scale: bool = False
    epilogue: str = ""
    bias: bool = True

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the convolution's output before pooling."""
        height, width = ((size - 1) // self.stride + 1 for size in self.size)
        return self.samples, self.out, height, width


CASES = [
    ConvCase("plain"),
    ConvCase("image", channels=(3,), out=16, affine=False),
    ConvCase("odd-size", size=(7, 5)),
    ConvCase("one-pixel", size=(1, 1)),
    ConvCase("batch1", samples=1),
    ConvCase("odd-channels", channels=(5,), out=17),
    ConvCase("48-channels", channels=(48,), out=3),
    ConvCase("pointwise", kernel=1),
    ConvCase("pointwise-stride2", kernel=1, stride=2, samples=3, size=(32, 40)),
    ConvCase("stride2", stride=2),
    ConvCase("stride2-odd-size", stride=2, size=(7, 9)),
    ConvCase("dilation6", dilation=6, size=(16, 14)),
    ConvCase("dilation-beyond-map", dilation=18, size=(6, 8)),
    ConvCase("scale-alone", channels=(16,), scale=True),
    ConvCase("no-bias", bias=False),
    ConvCase("residual", epilogue="residual"),
    ConvCase("residual-stride2", epilogue="residual", stride=2),
    ConvCase("gate", epilogue="gate"),
    ConvCase("gate-dilation", epilogue="gate", dilation=2),
    ConvCase("pool", epilogue="pool"),
    ConvCase("pool-odd-size", epilogue="pool", size=(7, 5)),
    ConvCase("upsample", upsample=(True,)),
    ConvCase("upsample-one-pixel", upsample=(True,), size=(2, 2)),
    ConvCase("upsample-pointwise", upsample=(True,), kernel=1),
    ConvCase("decoder", channels=(6, 4), upsample=(True, False), out=5),
    ConvCase("decoder-pointwise", channels=(6, 4), upsample=(True, False), kernel=1, affine=False),
    ConvCase("two-sources", channels=(3, 8), upsample=(False, False), epilogue="residual"),
    ConvCase("upsample-pool", upsample=(True,), epilogue="pool"),
]


@dataclass
class Operands:
    """Tensors of one convolution, leaves that require gradients."""

    sources: list[Source]
    weight: Tensor
    bias: Tensor | None
    options: dict[str, Any]

    @property
    def leaves(self) -> list[Tensor]:
        """All tensors with gradients."""
        candidates = [self.weight, self.bias, *self.options.values()]
        for source in self.sources:
            candidates += [source.data, source.affine]
        return [x for x in candidates if isinstance(x, Tensor)]

    def to(self, dtype: torch.dtype) -> Operands:
        """Return a copy with leaves of their own: images and weights in ``dtype``, vectors in its statistics' dtype."""

        def image(x: Tensor) -> Tensor:
            return x.detach().clone().to(dtype).requires_grad_()

        def vector(x: Tensor) -> Tensor:
            return x.detach().clone().to(accumulation_dtype(dtype)).requires_grad_()

        options = {
            name: value if not isinstance(value, Tensor) else vector(value) if name == "gate_scale" else image(value)
            for name, value in self.options.items()
        }
        sources = [
            Source(image(s.data), None if s.affine is None else vector(s.affine), s.relu, s.upsample)
            for s in self.sources
        ]
        return Operands(sources, image(self.weight), None if self.bias is None else image(self.bias), options)


def operands(case: ConvCase, kind: str = "normal") -> Operands:
    """Return random float64 operands; ``kind`` as in ``hurtful_image``."""
    sources = []
    for channels, up in zip(case.channels, case.upsample, strict=True):
        height, width = (size // 2 if up else size for size in case.size)
        data = hurtful_image((case.samples, channels, height, width), kind)
        affine = torch.randn(3, case.samples, channels, dtype=torch.float64)
        affine[0] = data.mean(dim=(2, 3))
        if case.scale:
            sources.append(Source(data, affine[1:2], relu=False, upsample=up))
        else:
            sources.append(Source(data, affine if case.affine else None, case.affine, up))
    inputs = sum(case.channels)
    weight = (
        torch.randn(case.out, inputs, case.kernel, case.kernel, dtype=torch.float64) / (inputs * case.kernel**2) ** 0.5
    )
    options: dict[str, Any] = {"stride": case.stride, "dilation": case.dilation}
    if case.epilogue in ("residual", "gate"):
        options[case.epilogue] = hurtful_image(case.output_shape, kind)
    if case.epilogue == "gate":
        options["gate_scale"] = torch.rand(case.samples, case.out, dtype=torch.float64)
    options["pool"] = case.epilogue == "pool"
    bias = torch.randn(case.out, dtype=torch.float64) if case.bias else None
    return Operands(sources, weight, bias, options).to(torch.float64)
