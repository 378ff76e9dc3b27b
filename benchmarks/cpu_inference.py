"""Time inference on the CPU: the published network in four engines and the folded one in three, in turn in one process.

Run: make bench-cpu, or python -m benchmarks.cpu_inference [--shape 1x256 8x256 1x512] [--rounds 30]

Nothing is timed before its logits equal those of the published network in eager mode to 1e-5 of their range.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastresunet import ResUNetPP, fold
from fastresunet.inference import FoldedResUNetPP, compile_for_cpu, count_macs
from fastresunet.inference.engines import openvino_settings

Run = Callable[[Tensor], Tensor]
TOLERANCE = 1e-5


def main() -> None:
    """Print the machine, the work, and for each image shape medians, shortest times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape",
        nargs="+",
        type=batch_and_size,
        default=[(1, 256), (8, 256), (1, 512)],
        metavar="NxSIZE",
        help="images at once and their height and width in pixels (default: 1x256 8x256 1x512)",
    )
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each (default: 30)")
    options = parser.parse_args()
    torch.manual_seed(0)
    published = trained_network()
    folded = fold(published)
    print(f"{processor()}, {torch.get_num_threads()} threads, {platform.system()}, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino")))
    for samples, size in options.shape:
        image = torch.rand(samples, 3, size, size)
        compare(published, folded, image, options.rounds)


def batch_and_size(text: str) -> tuple[int, int]:
    """Parse ``8x256``."""
    samples, _, size = text.partition("x")
    return int(samples), int(size)


def trained_network() -> ResUNetPP:
    """Return the published network with running statistics that differ from the initial ones."""
    network = ResUNetPP()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return network.eval()


@torch.inference_mode()
def compare(published: ResUNetPP, folded: FoldedResUNetPP, image: Tensor, rounds: int) -> None:
    """Print the table of one image shape: ``first`` is the time to build an engine and get one result."""
    engines: dict[str, Callable[[], Run]] = {
        "published, eager": lambda: published,
        "published, torch.compile": lambda: torch.compile(published, dynamic=False),
        "published, ONNX Runtime": lambda: in_onnx_runtime(onnx_of(published, image)),
        "published, OpenVINO": lambda: in_openvino(onnx_of(published, image)),
        "folded, eager": lambda: folded,
        "folded, inductor": lambda: compile_for_cpu(folded, "inductor"),
        "folded, openvino": lambda: compile_for_cpu(folded, "openvino"),
    }
    expected = published(image)
    networks, first = {}, {}
    for name, build in engines.items():
        start = time.perf_counter()
        networks[name] = build()
        logits = networks[name](image)
        first[name] = time.perf_counter() - start
        difference = float((logits - expected).abs().max() / (expected.max() - expected.min()))
        if not difference <= TOLERANCE:
            raise SystemExit(f"{name} differs from the published network by {difference:.1e} of its range")
    times = interleaved(networks, image, rounds)
    work = {name: count_macs(network, image) for name, network in (("published", published), ("folded", folded))}
    print(f"\n{tuple(image.shape)} float32, {rounds} rounds")
    for name, count in work.items():
        print(f"{name}: {count.inside / 1e9:.2f} GMAC inside the image, {count.padded / 1e9:.2f} in its zero padding")
    print(f"{'':28}{'first s':>8}{'median ms':>10}{'min ms':>10}{'x eager':>9}{'x OpenVINO':>12}")
    for name, seconds in times.items():
        ratios = [speedup(times[base], seconds) for base in ("published, eager", "published, OpenVINO")]
        print(
            f"{name:28}{first[name]:8.1f}{1e3 * statistics.median(seconds):10.1f}{1e3 * min(seconds):10.1f}"
            f"{ratios[0]:9.2f}{ratios[1]:12.2f}",
            flush=True,
        )


def onnx_of(published: ResUNetPP, image: Tensor) -> bytes:
    """Return the published network as an ONNX model for this image's shape."""
    program = torch.onnx.export(published, (image,), dynamo=True, verbose=False)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def in_onnx_runtime(model: bytes) -> Run:
    """Return a function that runs an ONNX model in ONNX Runtime, on PyTorch's number of threads."""
    import onnxruntime  # noqa: PLC0415 - the cpu extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def in_openvino(model: bytes) -> Run:
    """Return a function that runs an ONNX model in OpenVINO, with the settings of ``compile_for_cpu``."""
    import openvino  # noqa: PLC0415 - the cpu extra

    core: Any = openvino.Core()
    request = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", openvino_settings()).create_infer_request()
    return lambda x: torch.from_numpy(request.infer([x.numpy()], share_inputs=True)[0])


def interleaved(networks: dict[str, Run], image: Tensor, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, all networks in turn in every round, after two rounds that are not timed."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds + 2):
        for name, run in networks.items():
            start = time.perf_counter()
            run(image)
            times[name].append(time.perf_counter() - start)
    return {name: seconds[2:] for name, seconds in times.items()}


def speedup(base: list[float], seconds: list[float]) -> float:
    """Return the median over rounds of how many times shorter a call is than the base's call of the same round."""
    return statistics.median(b / s for b, s in zip(base, seconds, strict=True))


def processor() -> str:
    """Return the processor's model and the vector instructions PyTorch uses."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})"


if __name__ == "__main__":
    main()
