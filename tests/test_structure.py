"""Structure that a reader relies on: imports run one way, importing is light, both packages install."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import modules of its own layer and of the layers before it.
LAYERS = [
    ("fastresunet.reference",),
    ("fastresunet_kernels",),
    ("fastresunet.ops",),
    ("fastresunet.feature_map",),
    ("fastresunet.distributed",),
    ("fastresunet.running_statistics",),
    ("fastresunet.normalization",),
    ("fastresunet.blocks",),
    ("fastresunet.errors",),
    ("fastresunet.files",),
    ("fastresunet.parameter_shapes",),
    ("fastresunet.pretrained",),
    ("fastresunet.weights_folder",),
    ("fastresunet.model",),
    ("fastresunet.tuning",),
    ("fastresunet.keras_file",),
    ("fastresunet.keras",),
    ("fastresunet.checkpoints",),
    ("fastresunet.inference",),
    ("fastresunet.cuda_graphs",),
    ("fastresunet.training",),
    ("fastresunet.cli",),
]


def layer(module: str) -> int | None:
    """Return the layer of a module, ``None`` outside the layers."""
    for position, prefixes in enumerate(LAYERS):
        if any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes):
            return position
    return None


def imports(path: Path) -> list[str]:
    """Return the modules of this project that a file imports, at any depth of its code."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Relative imports stand in kernels/ only, which is one layer.
            base = node.module if node.level == 0 else f"fastresunet_kernels.{node.module}"
            assert node.level == 0 or "kernels" in path.parts, f"{path}: relative import"
            found += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in found if name.startswith("fastresunet")]


def sources() -> list[Path]:
    return sorted([*(ROOT / "fastresunet").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = ".".join(parts).replace("kernels", "fastresunet_kernels", 1).removesuffix(".__init__")
    position = layer(module)
    for name in imports(path):
        target = layer(name)
        if module == "fastresunet":
            continue  # the package's front page gathers from all layers
        assert position is not None, f"{module} has no layer; give it one in LAYERS"
        if name == "fastresunet.__version__":
            continue
        assert target is not None, f"{module} imports {name}: import it from the module that defines it"
        assert target <= position, f"{module} imports {name}, which is a later layer"


def test_the_reference_needs_nothing_but_torch() -> None:
    assert imports(ROOT / "fastresunet/reference.py") == []


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def test_import_loads_no_optional_package_and_touches_no_device() -> None:
    loaded = run(
        "import sys, fastresunet, torch\n"
        "optional = {'h5py', 'lightning', 'matplotlib', 'monai', 'PIL', 'tensorboard', 'torchmetrics', 'torchvision'}\n"
        "optional |= {'av', 'huggingface_hub', 'onnx', 'onnxruntime', 'onnxscript', 'openvino', 'triton'}\n"
        "print(sorted(optional & set(sys.modules)), torch.cuda.is_initialized())"
    )
    assert loaded == "[] False"


def test_import_works_without_triton() -> None:
    assert run("import sys; sys.modules['triton'] = None; import fastresunet; print('ok')") == "ok"


def test_both_packages_are_importable_and_typed() -> None:
    printed = run(
        "import fastresunet, fastresunet_kernels, pathlib\n"
        "folders = [pathlib.Path(package.__file__).parent for package in (fastresunet, fastresunet_kernels)]\n"
        "print(all((folder / 'py.typed').exists() for folder in folders))"
    )
    assert printed == "True"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda path: path.name)
def test_masked_loads_say_what_is_outside(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.load":
            named = {keyword.arg for keyword in node.keywords}
            assert len(node.args) == 1, f"{path.name}:{node.lineno}: name the arguments of tl.load"
            assert "mask" not in named or "other" in named, f"{path.name}:{node.lineno}: masked load without other="


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda path: path.name)
def test_kernels_write_what_is_named_out_and_nothing_else(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "tl.store",
            "store_block",
            "tl.load",
            "load_block",
        ):
            writes = "store" in ast.unparse(node.func)
            names = {name.id for name in ast.walk(node.args[0]) if isinstance(name, ast.Name)}
            results = {name for name in names if name.endswith("_out")}
            operands = {name for name in names if name.endswith("_ptr")}
            assert not (operands if writes else results), f"{path.name}:{node.lineno}: {sorted(names)}"
