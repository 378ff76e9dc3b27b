"""Networks from files of Keras against numbers of Keras, and against its conventions written out."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastresunet import FastResUNetPP, KerasResUNetPP, fold, load_keras
from fastresunet.keras import SameConv2d
from tests.keras.emulation import KerasEmulation, write_keras2_weights, write_keras3_weights, write_model
from tests.numerics import relative_difference

GOLDEN = Path(__file__).parents[3] / "shared/golden/keras"
LAYOUTS: list[Callable[[KerasEmulation, Path], None]] = [write_model, write_keras2_weights, write_keras3_weights]


@pytest.fixture(scope="module")
def emulation() -> KerasEmulation:
    return KerasEmulation()


@pytest.fixture
def file(emulation: KerasEmulation, tmp_path: Path) -> Path:
    write_model(emulation, tmp_path / "model.h5")
    return tmp_path / "model.h5"


def image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, height, width, dtype=torch.float64)


def keras_logits(emulation: KerasEmulation, x: Tensor) -> Tensor:
    return emulation(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the files that Keras wrote lie outside the repository, and not here")
@pytest.mark.parametrize("name", ["resunetplusplus.h5", "resunetplusplus.weights.h5"])
def test_probabilities_are_those_of_keras(name: str) -> None:
    with np.load(GOLDEN / "io.npz") as arrays:
        x, expected = (torch.from_numpy(arrays[key]).permute(0, 3, 1, 2) for key in ("x", "y"))
    model = load_keras(GOLDEN / name)
    with torch.no_grad():
        for network in (model, fold(model)):
            assert float((network(x).sigmoid() - expected).abs().max()) <= 1e-5
    assert (model.filters, model.num_classes, model.se_reduction) == ((16, 32, 64, 128, 256), 1, 8)


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("size", [(48, 32), (40, 56)], ids=["multiple of 16", "multiple of 8"])
def test_every_layout_and_size(
    write: Callable[[KerasEmulation, Path], None], size: tuple[int, int], emulation: KerasEmulation, tmp_path: Path
) -> None:
    write(emulation, tmp_path / "model.h5")
    model = load_keras(tmp_path / "model.h5").double()
    x = image(*size)
    assert relative_difference(model(x), keras_logits(emulation, x)) <= 1e-12
    assert relative_difference(fold(model)(x), keras_logits(emulation, x)) <= 1e-10


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_sizes_of_the_network_follow_from_the_file(
    write: Callable[[KerasEmulation, Path], None], tmp_path: Path
) -> None:
    emulation = KerasEmulation(in_channels=1, filters=(5, 9, 7, 8, 3), classes=3, reduction=4)
    write(emulation, tmp_path / "model.h5")
    model = load_keras(tmp_path / "model.h5").double()
    assert (model.in_channels, model.num_classes, model.filters) == (1, 3, (5, 9, 7, 8, 3))
    assert [model.c2.attn.net[0].out_features, model.d3.r1.attn.net[0].out_features] == [2, 2]
    x = image(16, 32, channels=1)
    assert relative_difference(model(x), keras_logits(emulation, x)) <= 1e-12


def test_gradients_are_those_of_the_same_function(file: Path, emulation: KerasEmulation) -> None:
    model, x, twin = load_keras(file).double(), image(32, 48), copy.deepcopy(emulation)
    for arrays in twin.layers.values():
        for array in arrays:
            array.requires_grad_()
    keras_logits(twin, x).square().mean().backward()
    model(x).square().mean().backward()
    for kind, prefix in ((nn.Conv2d, "conv2d"), (nn.BatchNorm2d, "batch_normalization"), (nn.Linear, "dense")):
        modules = [module for module in model.modules() if isinstance(module, kind)]
        layers = [arrays for name, arrays in twin.layers.items() if name.startswith(prefix)]
        for module, arrays in zip(modules, layers, strict=True):
            for parameter, array in zip(module.parameters(), arrays, strict=False):
                assert array.grad is not None
                grad = array.grad.permute(*{4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim])
                assert parameter.grad is not None
                assert relative_difference(parameter.grad, grad) <= 1e-9


def test_trains(file: Path) -> None:
    model = load_keras(file).train()
    x, target = image(32, 32).float(), (torch.arange(32) < 16).expand(2, 1, 32, 32).float()
    before = copy.deepcopy(model.c3.c1[2].state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not torch.equal(model.c3.c1[2].state_dict()["weight"], before["weight"])


def test_running_statistics_move_as_slowly_as_in_keras(file: Path) -> None:
    model, x = load_keras(file).double(), image(16, 16)
    old = model.c2.c1[0].state_dict()["running_mean"].clone()
    stem: nn.Module = model.train().c1
    seen = stem(x).mean(dim=(0, 2, 3))
    model(x)
    assert relative_difference(model.c2.c1[0].state_dict()["running_mean"], 0.99 * old + 0.01 * seen) <= 1e-10


def test_state_dict_and_copies_keep_the_function(file: Path, tmp_path: Path) -> None:
    model, x = load_keras(file), image(24, 32).float()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    again = KerasResUNetPP(filters=model.filters, se_reduction=model.se_reduction).eval()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for twin in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


def test_networks_of_other_padding_do_not_take_its_parameters(file: Path) -> None:
    model = load_keras(file)
    plain = FastResUNetPP(filters=model.filters, se_reduction=model.se_reduction)
    with pytest.raises(RuntimeError, match="same_padding"):
        plain.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="same_padding"):
        model.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_strided_convolution_of_odd_maps(kernel_size: int) -> None:
    emulation, x = KerasEmulation(), image(7, 9, channels=4)
    layer = SameConv2d(4, 5, kernel_size).double()
    emulation.layers["conv2d"] = [layer.state_dict()["weight"].permute(2, 3, 1, 0), layer.state_dict()["bias"]]
    emulation.counts = {}
    expected = emulation.conv(x.permute(0, 2, 3, 1), 5, kernel_size, stride=2).permute(0, 3, 1, 2)
    assert relative_difference(layer(x), expected) <= 1e-12


def test_a_missing_file_and_files_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no Keras file .*missing\.h5"):
        load_keras(tmp_path / "missing.h5")
    torch.save({}, tmp_path / "state.pth")
    with pytest.raises(ValueError, match=r"state\.pth is no HDF5 file"):
        load_keras(tmp_path / "state.pth")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["images"] = [1, 2]
    with pytest.raises(ValueError, match=r"other\.h5 .*entries \['images'\]"):
        load_keras(tmp_path / "other.h5")


def test_a_truncated_file(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20000])
    with pytest.raises(ValueError, match=r"model\.h5 is not a file of Keras that can be read"):
        load_keras(file)


def test_without_h5py(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "fastresunet\[keras\]"'):
        load_keras(file)


def without(name: str) -> Callable[[KerasEmulation], None]:
    def damage(emulation: KerasEmulation) -> None:
        del emulation.layers[name]
        del emulation.settings[name]
        emulation.shortcuts = []

    return damage


def with_layer(name: str, *shapes: tuple[int, ...]) -> Callable[[KerasEmulation], None]:
    def damage(emulation: KerasEmulation) -> None:
        emulation.layers[name] = [torch.zeros(shape) for shape in shapes]
        emulation.settings.setdefault(name, {})

    return damage


def with_setting(name: str, key: str, value: object) -> Callable[[KerasEmulation], None]:
    return lambda emulation: emulation.settings[name].update({key: value})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("conv2d_40"), "there is no layer for output: it has 40 of 41 Conv2d"),
        (without("batch_normalization_5"), "batch_normalization_6 does not fit c3.c1.0"),
        (without("dense_13"), r"no layer for d3\.r1\.attn\.net\.2: it has 13 of 14 Linear"),
        (without("conv2d_12"), r"layer conv2d_35 has dilation_rate \[6, 6\], expected \[12, 12\]"),
        (with_layer("dense_14", (4, 4)), "layer dense_14 is one more than the network has"),
        (with_layer("separable_conv2d", (3, 3, 4, 1), (1, 1, 4, 4)), "layer separable_conv2d has parameters of shapes"),
        (with_layer("conv2d_7", (3, 3, 5, 8), (8,)), r"layer conv2d_7 does not fit c3\.c1\.5: shape \(8, 5, 3, 3\)"),
        (with_layer("dense_2", (6, 5)), r"dense, dense_2, dense_4, dense_6 have \[2, 5, 4, 6\] units"),
        (with_setting("batch_normalization_3", "epsilon", 1e-5), "batch_normalization_3 has epsilon 1e-05"),
        (with_setting("conv2d_3", "strides", [1, 1]), r"conv2d_3 has strides \[1, 1\], expected \[2, 2\]"),
        (with_setting("conv2d_20", "padding", "valid"), "conv2d_20 has padding valid"),
        (with_setting("conv2d_36", "dilation_rate", [2, 2]), r"conv2d_36 has dilation_rate \[2, 2\]"),
    ],
)
def test_other_networks_are_refused_by_layer(
    damage: Callable[[KerasEmulation], None], message: str, tmp_path: Path
) -> None:
    emulation = KerasEmulation()
    damage(emulation)
    write_model(emulation, tmp_path / "model.h5")
    with pytest.raises(ValueError, match=rf"model\.h5 does not hold the published .*{message}"):
        load_keras(tmp_path / "model.h5")


def test_an_encoder_alone_is_no_such_network(tmp_path: Path) -> None:
    emulation = KerasEmulation()
    emulation.layers = {name: emulation.layers[name] for name in ("conv2d", "conv2d_1", "dense")}
    emulation.shortcuts = []
    write_keras3_weights(emulation, tmp_path / "encoder.weights.h5")
    with pytest.raises(ValueError, match="2 convolutions and 1 dense layers without bias are not those of a stem"):
        load_keras(tmp_path / "encoder.weights.h5")
