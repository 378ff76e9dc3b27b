"""Exported files, compiled networks, and the command that exports."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastresunet import FastResUNetPP, KerasResUNetPP, __version__, fold
from fastresunet.cli import main
from fastresunet.inference import ExportError, FoldedResUNetPP, compile_for_cpu, engines, export, exporting
from fastresunet.inference.onnx_file import run_onnx
from tests.numerics import relative_difference

from .networks import SMALL, mild_network

# None of them is the shape the export traces; one row or column of the bridge is two pixels wide.
SHAPES = ((1, 3, 16, 16), (3, 3, 16, 72), (5, 3, 40, 24))


@pytest.fixture
def folded() -> FoldedResUNetPP:
    """A network with fewer taps than the published one, as compilers take their time for each."""
    return fold(mild_network(torch.float32, aspp_rates=(1, 6)))


def assert_same(run: Callable[[Tensor], Tensor], folded: FoldedResUNetPP) -> None:
    for shape in SHAPES:
        image = torch.rand(shape)
        assert relative_difference(run(image), folded(image)) <= 1e-5, shape


def test_onnx(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    folded = fold(mild_network(torch.float32))
    file = export(folded, tmp_path / "new/folder/network.onnx", "onnx", size=352)
    assert [path.name for path in file.parent.iterdir()] == ["network.onnx"]
    model = onnx.load(file)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["version"] == __version__
    assert json.loads(metadata["filters"]) == list(SMALL["filters"])
    assert metadata["num_classes"] == "1"
    assert metadata["training_size"] == "352"
    assert "RGB in 0..1" in metadata["input"]
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    image, logits = session.get_inputs()[0], session.get_outputs()[0]
    assert (image.name, image.shape) == ("image", ["batch", 3, "height", "width"])
    assert (logits.name, logits.shape) == ("logits", ["batch", 1, "height", "width"])
    assert_same(lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0]), folded)


def test_onnx_of_many_classes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    # The rates are beyond the map of the example: an exported graph keeps every tap for larger images.
    folded = fold(mild_network(torch.float32, num_classes=5, in_channels=4, aspp_rates=(1, 30)))
    file = export(folded, tmp_path / "network.onnx", "onnx")
    image = torch.rand(1, 4, 320, 16)
    assert relative_difference(run_onnx(file)(image), folded(image)) <= 1e-5


def test_onnx_of_a_network_of_keras(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folded = fold(mild_network(torch.float32, network_class=KerasResUNetPP, aspp_rates=(1,)))
    assert_same(run_onnx(export(folded, tmp_path / "network.onnx", "onnx")), folded)


def test_torch_export(folded: FoldedResUNetPP, tmp_path: Path) -> None:
    file = export(folded, tmp_path / "network.pt2", "torch-export")
    extra = {"fastresunet.json": ""}
    program = torch.export.load(file, extra_files=extra)
    assert json.loads(extra["fastresunet.json"])["training_size"] == "unknown"
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert {str(t).partition(".")[0] for t in targets if isinstance(t, torch._ops.OpOverload)} == {"aten"}
    assert_same(program.module(), folded)


def test_aot_inductor(folded: FoldedResUNetPP, tmp_path: Path) -> None:
    file = export(folded, tmp_path / "network.pt2", "aoti")
    package: Any = torch._inductor.aoti_load_package(str(file))
    assert package.get_metadata()["version"] == __version__
    assert_same(package, folded)


@pytest.mark.parametrize("engine", ["inductor", "openvino"])
def test_compiled_for_the_cpu(engine: Any, folded: FoldedResUNetPP) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    torch.compiler.reset()
    compiled = compile_for_cpu(folded, engine)
    image = torch.rand(2, 3, 33, 20)
    expected = folded(image)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert relative_difference(compiled(image), expected) <= 1e-5
    with pytest.raises(ValueError, match=r"got shape \(1, 4, 16, 16\)"):
        compiled(torch.rand(1, 4, 16, 16))


def test_inductor_at_many_sizes_of_many_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda call, fullgraph, dynamic, options: compile_(call, fullgraph=fullgraph, dynamic=dynamic, backend="eager"),
    )
    monkeypatch.setattr(engines, "_KEPT_SHAPES", 5)
    for _ in range(2):
        folded = fold(mild_network(torch.float32, aspp_rates=(1,)))
        compiled = compile_for_cpu(folded, "inductor")
        for size in (16, 24, 32, 40, 48, 56, 16):  # more than PyTorch's own limit for one function
            image = torch.rand(1, 3, 16, size)
            assert relative_difference(compiled(image), folded(image)) <= 1e-5


def test_openvino_at_many_sizes(folded: FoldedResUNetPP, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    compiled = compile_for_cpu(folded, "openvino")
    monkeypatch.setattr(engines, "_KEPT_SHAPES", 2)
    for size in (8, 16, 24, 32, 16, 8):  # more than are kept, and too small for the exported graph
        image = torch.rand(1, 3, size, 24)
        assert relative_difference(compiled(image), folded(image)) <= 1e-5


def test_a_file_with_other_logits_is_not_handed_over(
    folded: FoldedResUNetPP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = exporting.export_program(fold(mild_network(torch.float32, aspp_rates=(1, 6))))
    monkeypatch.setattr(exporting, "export_program", lambda folded: program)
    out = tmp_path / "network.pt2"
    out.write_text("earlier file")
    with pytest.raises(ExportError, match=r"the torch-export file differs from the network by .* nothing was written"):
        export(folded, out, "torch-export")
    assert out.read_text() == "earlier file"
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]


def test_arguments_that_cannot_be_used_are_named(folded: FoldedResUNetPP, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"must be one of onnx, torch-export, aoti, got 'tflite'"):
        export(folded, tmp_path / "a.onnx", "tflite")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"a file of format onnx must end in .onnx, got a.pt"):
        export(folded, tmp_path / "a.pt", "onnx")
    with pytest.raises(ExportError, match=r"got FastResUNetPP; use fastresunet.fold\(model\)"):
        export(FastResUNetPP(**SMALL), tmp_path / "a.onnx", "onnx")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"must be one of inductor, openvino, got 'tvm'"):
        compile_for_cpu(folded, "tvm")  # type: ignore[arg-type]
    folded.double()
    for use in (lambda: export(folded, tmp_path / "a.onnx", "onnx"), lambda: compile_for_cpu(folded)):
        with pytest.raises(ExportError, match=r"float32 network on the CPU, got torch.float64 on cpu"):
            use()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_says_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("onnxruntime")
    checkpoint, out = tmp_path / "best.pth", tmp_path / "network.onnx"
    torch.save(FastResUNetPP(**SMALL).state_dict(), checkpoint)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["export", "--checkpoint", str(checkpoint), "--format", "onnx", "--out", str(out)]) == 1
    assert f'needs {missing}. Run: pip install "fastresunet[cpu]"' in capsys.readouterr().err
    assert not out.exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    model = FastResUNetPP(**SMALL).eval()
    checkpoint, out = tmp_path / "best.pth", tmp_path / "network.pt2"
    torch.save(model.state_dict(), checkpoint)
    command = ["export", "--checkpoint", str(checkpoint), "--format", "torch-export", "--out"]
    assert main([*command, str(out)]) == 0
    assert f"Written and checked: {out}" in capsys.readouterr().out
    image = torch.rand(1, 3, 24, 32)
    assert relative_difference(torch.export.load(out).module()(image), model(image)) <= 1e-5
    assert main([*command, str(tmp_path / "network.onnx")]) == 1
    assert "error: a file of format torch-export must end in .pt2, got network.onnx" in capsys.readouterr().err
