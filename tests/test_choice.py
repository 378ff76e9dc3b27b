"""The choice of configurations and backends: defaults, the file of tuned ones, what switches it on and off."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastresunet_kernels import cache, choice
from fastresunet_kernels.config import Config, Layer, rule
from fastresunet_kernels.keys import layer_key, operation_key
from torch import Tensor

from fastresunet import ops
from fastresunet.ops import Source, torch_backend
from fastresunet.ops import backend as backends
from tests.numerics import relative_difference

CPU = torch.device("cpu")
LAYER = Layer("forward", torch.bfloat16, 16, 32, 3, 1, 1, False, False, 60 * 60)
TUNED = Config(16, 16, 16, warps=8, stages=3)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Enable tuning, with files in a folder of the test's own."""
    monkeypatch.setenv("FASTRESUNET_AUTOTUNE", "1")
    monkeypatch.setenv("FASTRESUNET_CACHE", str(tmp_path / "cache"))
    torch.use_deterministic_algorithms(False)
    yield tmp_path / "cache"
    cache.read.cache_clear()


def save(configs: dict[str, Config] | None = None, choices: dict[str, str] | None = None) -> Path:
    """Add choices to the CPU's file and return it."""
    file: Path = cache.cache_file(CPU)
    cache.merge(file, cache.Tuned(configs or {}, choices or {}))
    return file


def test_default_without_a_file(cache_folder: Path) -> None:
    assert choice.choose(LAYER, CPU) == rule(LAYER)
    assert not cache_folder.exists()


@pytest.mark.parametrize(
    ("pixels", "chosen"), [(60 * 60, TUNED), (64 * 64, TUNED), (2049, TUNED), (2048, None), (64 * 64 + 1, None)]
)
def test_tuned_configuration_serves_its_power_of_2_of_pixels(pixels: int, chosen: Config | None) -> None:
    save({layer_key(LAYER): TUNED})
    layer = LAYER._replace(pixels=pixels)
    assert choice.choose(layer, CPU) == (chosen or rule(layer))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "weight_gradient"},
        {"dtype": torch.float16},
        {"inputs": 17},
        {"outputs": 31},
        {"kernel_size": 1},
        {"stride": 2},
        {"dilation": 2},
        {"upsample": True},
        {"pool": True},
    ],
    ids=str,
)
def test_another_layer_keeps_its_default(change: dict[str, Any]) -> None:
    save({layer_key(LAYER): TUNED})
    layer = LAYER._replace(**change)
    assert choice.choose(layer, CPU) == rule(layer)


def test_float32_is_tuned_apart_from_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LAYER._replace(dtype=torch.float32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    save({layer_key(layer): TUNED})
    assert choice.choose(layer, CPU) == TUNED
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert choice.choose(layer, CPU) == rule(layer)


@pytest.mark.parametrize("value", ["", "0", None])
def test_switched_off(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    save({layer_key(LAYER): TUNED})
    if value is None:
        monkeypatch.delenv("FASTRESUNET_AUTOTUNE")
    else:
        monkeypatch.setenv("FASTRESUNET_AUTOTUNE", value)
    assert choice.choose(LAYER, CPU) == rule(LAYER)


def test_deterministic_algorithms_take_the_default_but_may_be_forced() -> None:
    save({layer_key(LAYER): TUNED}, {operation_key("conv", ()): "torch"})
    assert choice.choose_backend("conv", (), CPU) == "torch"
    torch.use_deterministic_algorithms(True)
    assert choice.choose(LAYER, CPU) == rule(LAYER)
    assert choice.choose_backend("conv", (), CPU) == "triton"
    with choice.forced({LAYER: TUNED}), choice.recorded() as layers:
        assert choice.choose(LAYER, CPU) == TUNED
        other = LAYER._replace(outputs=64)
        assert choice.choose(other, CPU) == rule(other)
    assert layers == [LAYER, other]
    assert choice.choose(LAYER, CPU) == rule(LAYER)


def test_folder_of_the_file(monkeypatch: pytest.MonkeyPatch, cache_folder: Path, tmp_path: Path) -> None:
    name = cache.cache_file(CPU).name
    assert torch.__version__ in name
    assert cache.cache_file(CPU).parent == cache_folder
    monkeypatch.delenv("FASTRESUNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_file(CPU) == tmp_path / "xdg/fastresunet" / name
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_file(CPU) == Path.home() / ".cache/fastresunet" / name


def test_a_device_has_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Vendor A/{device.index}")
    names = [cache.cache_file(torch.device("cuda", index)).name for index in (6, 7)]
    assert names[0].startswith("Vendor-A-6-triton-")
    assert names[1].startswith("Vendor-A-7-triton-")


def test_files_are_merged_and_leave_nothing_else(cache_folder: Path) -> None:
    first, second = layer_key(LAYER), layer_key(LAYER._replace(pixels=7))
    save({first: TUNED, second: TUNED}, {"a": "torch"})
    file = save({second: rule(LAYER)}, {"b": "triton"})
    assert cache.read(file) == cache.Tuned({first: TUNED, second: rule(LAYER)}, {"a": "torch", "b": "triton"})
    assert list(cache_folder.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_file_as_it_was(monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    file = save({layer_key(LAYER): TUNED})

    def fail(*paths: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save({layer_key(LAYER): rule(LAYER)})
    assert choice.choose(LAYER, CPU) == TUNED
    assert list(cache_folder.iterdir()) == [file]


VALID: dict[str, Any] = {"format": 1, "configs": {}, "backends": {}}
TILE = {"block_pixels": 16, "block_in": 16, "block_out": 16}
MISUNDERSTOOD: list[dict[str, Any]] = [
    {"format": 2},
    {"configs": []},
    {"configs": {"layer": {"block_pixels": 16}}},
    {"configs": {"layer": {**TILE, "speed": 1}}},
    {"configs": {"layer": {**TILE, "block_in": "16"}}},
    {"configs": {"layer": {**TILE, "warps": 0}}},
    {"backends": {"conv": "cuda"}},
    {"backends": 3},
]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"{}", *(json.dumps({**VALID, **change}).encode() for change in MISUNDERSTOOD)],
)
def test_a_file_that_cannot_be_understood_is_ignored_with_one_warning(content: bytes) -> None:
    file = save({layer_key(LAYER): TUNED})
    file.write_bytes(content)
    cache.read.cache_clear()
    with pytest.warns(UserWarning, match="are ignored") as warned:
        chosen = [choice.choose(LAYER, CPU) for _ in range(2)]
    assert chosen == [rule(LAYER)] * 2
    assert [str(file) in str(warning.message) for warning in warned] == [True]
    with pytest.warns(UserWarning, match="are ignored"):
        save({layer_key(LAYER): TUNED})
    assert choice.choose(LAYER, CPU) == TUNED


def test_key_of_an_operation_rounds_pixels_up_and_tells_options_apart() -> None:
    weight = torch.empty(8, 3, 3, 3)

    def key(height: int, *options: Any) -> str:
        return operation_key("conv", ([torch.empty(2, 3, height, 10)], weight, *options, 1e-5))

    assert key(20, None, True) == key(25, None, True)
    assert len({key(20, None, True), key(20, None, False), key(20, weight, True), key(26, None, True)}) == 4
    assert key(20, torch.float64) != key(20, torch.float32)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take CPU tensors for a GPU's; kernels note their names and compute by PyTorch."""
    used: list[str] = []

    def kernels(device: torch.device) -> dict[str, Callable[..., Any]]:
        def conv(*operands: Any) -> Any:
            used.append("conv")
            return torch_backend.conv(*operands)

        return {"conv": conv}

    monkeypatch.setattr(backends, "_launchers", kernels)
    monkeypatch.setattr(backends.Call, "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")
    return used


def convolve(backend: ops.Backend = "auto") -> Tensor:
    """Return a small convolution."""
    return ops.conv([Source(torch.ones(1, 2, 4, 4))], torch.ones(3, 2, 1, 1), backend=backend).data


def test_auto_computes_with_pytorch_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_launchers", None)
    convolve()


def test_auto_computes_with_kernels_on_a_gpu(pretended_gpu: list[str]) -> None:
    convolve()
    assert pretended_gpu == ["conv"]
    convolve("torch")
    assert pretended_gpu == ["conv"]


def test_auto_computes_with_pytorch_where_triton_is_missing(
    pretended_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_triton_is_installed", lambda: False)
    convolve()
    assert not pretended_gpu


def test_auto_takes_pytorch_for_calls_it_was_faster_in(pretended_gpu: list[str]) -> None:
    calls: list[backends.Call] = []
    with backends.observed_calls(calls.append):
        expected = convolve("torch")
    key = operation_key(calls[0].name, calls[0].operands)
    cache.merge(cache.cache_file(torch.device("cuda", 0)), cache.Tuned({}, {key: "torch"}))
    assert relative_difference(convolve(), expected) == 0
    assert not pretended_gpu
    convolve("triton")
    assert pretended_gpu == ["conv"]
    torch.use_deterministic_algorithms(True)
    convolve()
    assert pretended_gpu == ["conv", "conv"]
