"""Write the folded network to a file that runs without this package, and run the file before it is handed over."""

# ruff: noqa: PLC0415 - importing the package loads no compiler; its version is known last.

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fastresunet.inference.extras import ExportError, require
from fastresunet.inference.network import SIZE_MULTIPLE, FoldedResUNetPP
from fastresunet.inference.onnx_file import onnx_model, run_onnx

Format = Literal["onnx", "torch-export", "aoti"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "aoti": ".pt2"}
METADATA_FILE = "fastresunet.json"
# A map of one pixel is a case of its own to torch.export: two at an eighth are the fewest.
SMALLEST_SIDE = 2 * SIZE_MULTIPLE
_EXAMPLE = (2, 64, 80)
# Other sizes and batches than the example's, the smallest one too: (samples, height, width).
_TRIALS = ((1, SMALLEST_SIDE, SMALLEST_SIDE), (3, 48, 96))
# Two libraries' float32 rounding; a wrong weight or tap is orders of magnitude above.
_TOLERANCE = 1e-4


def export(
    folded: FoldedResUNetPP, out: str | Path, format: Format, size: int | None = None, classes: tuple[str, ...] = ()
) -> Path:
    """Write the folded network to a file and check the file by running it.

    The file's input is ``image``, float32 (N, in_channels, H, W), for any N and any H and W that are multiples of 8
    from 16 on; its output ``logits`` (N, num_classes, H, W). It holds standard operators only.

    Args:
        folded: network in float32 on the CPU.
        out: file to write, ``.onnx`` for ONNX, ``.pt2`` for ``torch.export`` and AOTInductor. Its folder is made.
        format: ``"onnx"``; ``"torch-export"``, for ``torch.export.load``; ``"aoti"``, compiled for this machine's
            CPU, for ``torch._inductor.aoti_load_package``.
        size: image size of the training in pixels, for the metadata; None if unknown.
        classes: with their pixel values in masks, such as ``"polyp 1"``, for the metadata; none if unknown.

    Returns:
        The file.

    Raises:
        ExportError: an argument cannot be used, something to install is missing, or the file does not give the
            network's logits.
    """
    out = Path(out)
    _check(folded, out, format)
    program = export_program(folded)
    metadata = describe(folded, size, classes)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        unfinished = Path(folder) / f"network{SUFFIXES[format]}"
        run = _WRITERS[format](program, metadata, unfinished)
        _verify(folded, run, format)
        os.replace(unfinished, out)
    return out


def export_program(folded: FoldedResUNetPP) -> ExportedProgram:
    """Return the folded network as ``torch.export`` sees it, for any batch and for sides that are multiples of 8."""
    samples, height, width = _EXAMPLE
    parameter = folded.head.bias
    image = torch.zeros(samples, folded.in_channels, height, width, dtype=parameter.dtype, device=parameter.device)
    sizes = {0: Dim("batch", min=1), 2: SIZE_MULTIPLE * Dim("rows", min=2), 3: SIZE_MULTIPLE * Dim("columns", min=2)}
    with torch.no_grad():
        return torch.export.export(_Bare(folded).eval(), (image,), dynamic_shapes={"image": sizes})


def describe(folded: FoldedResUNetPP, size: int | None = None, classes: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the metadata of an exported file.

    Args:
        folded: the network.
        size: image size of the training in pixels; None if unknown.
        classes: with their pixel values in masks, such as ``"polyp 1"``; none if unknown.
    """
    from fastresunet import __version__

    colours = {1: "grey", 3: "RGB"}.get(folded.in_channels, "channels")
    activation = "a sigmoid" if folded.num_classes == 1 else "a softmax over the classes, the first the background,"

    return {
        "name": "fastresunet",
        "version": __version__,
        "architecture": "ResUNet++ (arXiv:1911.07067), folded for inference",
        "in_channels": str(folded.in_channels),
        "num_classes": str(folded.num_classes),
        "filters": json.dumps(folded.filters),
        "aspp_rates": json.dumps(folded.aspp_rates),
        "input": f"image: float32 (N, {folded.in_channels}, H, W), {colours} in 0..1 (8-bit values / 255, "
        f"without mean and deviation); H and W multiples of {SIZE_MULTIPLE}, at least {SMALLEST_SIDE}",
        "training_size": "unknown" if size is None else str(size),
        "output": f"logits: float32 (N, {folded.num_classes}, H, W); {activation} gives probabilities",
    } | ({"classes": json.dumps(classes)} if classes else {})


class _Bare(nn.Module):
    """The network without its checks and its padding, with the input named ``image``."""

    def __init__(self, folded: FoldedResUNetPP) -> None:
        super().__init__()
        self.folded = folded

    def forward(self, image: Tensor) -> Tensor:
        return self.folded.logits(image)


def _check(folded: FoldedResUNetPP, out: Path, format: Format) -> None:
    if format not in get_args(Format):
        raise ExportError(f"the format must be one of {', '.join(get_args(Format))}, got {format!r}")
    if not isinstance(folded, FoldedResUNetPP):
        raise ExportError(f"export takes a folded network, got {type(folded).__name__}; use fastresunet.fold(model)")
    if out.suffix != SUFFIXES[format]:
        raise ExportError(f"a file of format {format} must end in {SUFFIXES[format]}, got {out.name}")
    parameter = folded.head.bias
    if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
        raise ExportError(
            f"export takes a float32 network on the CPU, got {parameter.dtype} on {parameter.device}; "
            'use folded.to("cpu", torch.float32)'
        )


def _write_onnx(program: ExportedProgram, metadata: dict[str, str], out: Path) -> Callable[[Tensor], Tensor]:
    require("onnxruntime", "checking an ONNX file")  # before the work
    out.write_bytes(onnx_model(program, metadata))
    return run_onnx(out)


def _write_torch_export(program: ExportedProgram, metadata: dict[str, str], out: Path) -> Callable[[Tensor], Tensor]:
    torch.export.save(program, out, extra_files={METADATA_FILE: json.dumps(metadata, indent=1)})
    return torch.export.load(out).module()


def _write_aoti(program: ExportedProgram, metadata: dict[str, str], out: Path) -> Callable[[Tensor], Tensor]:
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch._inductor.exc import InvalidCxxCompiler

    settings = {"freezing": True, "aot_inductor.metadata": metadata}
    try:
        aoti_compile_and_package(program, package_path=str(out), inductor_configs=settings)
    except InvalidCxxCompiler as error:
        raise ExportError("the format aoti needs a C++ compiler: install g++, or name one in CXX") from error
    package: Callable[[Tensor], Tensor] = aoti_load_package(str(out))
    return package


_WRITERS: dict[Format, Callable[[ExportedProgram, dict[str, str], Path], Callable[[Tensor], Tensor]]] = {
    "onnx": _write_onnx,
    "torch-export": _write_torch_export,
    "aoti": _write_aoti,
}


@torch.no_grad()
def _verify(folded: FoldedResUNetPP, run: Callable[[Tensor], Tensor], format: Format) -> None:
    """Raise an ``ExportError`` unless the file gives the network's logits at sizes other than the example's."""
    generator = torch.Generator().manual_seed(0)
    for samples, height, width in _TRIALS:
        image = torch.rand(samples, folded.in_channels, height, width, generator=generator)
        expected, found = folded(image), run(image)
        if found.shape != expected.shape:
            raise ExportError(f"the {format} file gives shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
        difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not difference <= _TOLERANCE:
            raise ExportError(
                f"the {format} file differs from the network by {difference:.1e} of the largest logit at "
                f"{height}x{width}, expected at most {_TOLERANCE:.0e}; nothing was written"
            )
