"""``fastresunet.load``, weights as safetensors files and as folders: what is written comes back bit by bit."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fastresunet
from fastresunet import CheckpointError, FastResUNetPP, KerasResUNetPP, ResUNetPP
from fastresunet.checkpoints import load_with_size, write_weights

SMALL: dict[str, Any] = {"filters": (8, 8, 16, 16, 16)}
OTHER: dict[str, Any] = {**SMALL, "in_channels": 4, "num_classes": 2, "se_reduction": 4, "aspp_rates": (1, 2, 3)}


def assert_equal(model: nn.Module, expected: dict[str, Tensor]) -> None:
    assert not model.training
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("arguments", [SMALL, OTHER], ids=["published rates", "other arguments"])
def test_weights_alone_come_back_bit_by_bit(tmp_path: Path, arguments: dict[str, Any]) -> None:
    model = FastResUNetPP(**arguments)
    write_weights(model, tmp_path / "new/polyps.safetensors", 352)
    found, size, _ = load_with_size(tmp_path / "new/polyps.safetensors")
    assert (size, found.arguments) == (352, model.arguments)
    assert_equal(found, model.state_dict())


def test_weights_alone_need_their_suffix_and_finite_numbers(tmp_path: Path) -> None:
    model = FastResUNetPP(**SMALL)
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors, got polyps\.pt"):
        write_weights(model, tmp_path / "polyps.pt")
    nn.init.constant_(model.output.weight, float("nan"))
    with pytest.raises(CheckpointError, match=r"output\.weight has numbers that are not finite in float32"):
        write_weights(model, tmp_path / "polyps.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", [ResUNetPP, KerasResUNetPP])
def test_bare_safetensors_follow_from_their_shapes(tmp_path: Path, network: type[ResUNetPP]) -> None:
    state = network(**SMALL).state_dict()
    save_file(state, tmp_path / "bare.safetensors")
    found, size, _ = load_with_size(tmp_path / "bare.safetensors")
    assert size is None
    assert isinstance(found, KerasResUNetPP) == (network is KerasResUNetPP)
    assert_equal(found, state)


def test_damaged_and_foreign_safetensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*weights\.safetensors"):
        fastresunet.load(path)
    write_weights(FastResUNetPP(**SMALL), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is no safetensors file, or is truncated"):
        fastresunet.load(path)
    save_file({"head": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"does not hold the parameters of ResUNet\+\+: missing parameter 'c1\."):
        fastresunet.load(path)


@pytest.mark.parametrize(
    "about",
    [{"network": "no JSON"}, {"network": "[3]"}, {"network": '{"layers": 3}'}, {"size": "large"}],
    ids=["no JSON", "a list", "an unknown argument", "a size that is no number"],
)
def test_foreign_metadata_is_refused(tmp_path: Path, about: dict[str, str]) -> None:
    save_file(ResUNetPP(**SMALL).state_dict(), tmp_path / "odd.safetensors", about)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
        fastresunet.load(tmp_path / "odd.safetensors")


def test_state_dicts_and_names_load_without_the_train_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "monai", "torchvision", "PIL", "rich"):
        monkeypatch.setitem(sys.modules, name, None)
    state = ResUNetPP(**SMALL).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "model.pth")
    assert_equal(fastresunet.load(str(tmp_path / "model.pth")), state)
    assert fastresunet.load("kvasir-seg").filters == (16, 32, 64, 128, 256)
    with pytest.raises(ValueError, match=r"there is no checkpoint"):
        fastresunet.load(tmp_path / "missing.pth")


@pytest.mark.parametrize("network", [FastResUNetPP, KerasResUNetPP])
def test_folders_come_back_bit_by_bit(tmp_path: Path, network: type[FastResUNetPP]) -> None:
    model = network(**OTHER)
    model.save_pretrained(tmp_path / "polyps", size=352)
    assert sorted(path.name for path in (tmp_path / "polyps").iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "polyps/config.json").read_text())
    assert config == {"architecture": network.__name__, **model.arguments, "size": 352}
    for found in (network.from_pretrained(tmp_path / "polyps"), fastresunet.load(tmp_path / "polyps")):
        assert type(found) is network
        assert found.arguments == model.arguments
        assert_equal(found, model.state_dict())
    assert load_with_size(tmp_path / "polyps").size == 352


def test_a_folder_keeps_the_precision_of_the_network(tmp_path: Path) -> None:
    model = FastResUNetPP(**SMALL).half()
    model.save_pretrained(tmp_path)
    dtypes = {x.dtype for x in load_file(tmp_path / "model.safetensors").values()}
    assert dtypes == {torch.float16, torch.int64}
    assert_equal(FastResUNetPP.from_pretrained(tmp_path).half(), model.state_dict())


def test_a_configuration_of_other_tools_says_the_arguments(tmp_path: Path) -> None:
    """The mixin of huggingface_hub writes the arguments of the constructor, and no metadata."""
    model = FastResUNetPP(**OTHER)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {**model.arguments, "backend": "auto", "model_type": "segmentation"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, size, _ = load_with_size(tmp_path)
    assert (found.arguments, size) == (model.arguments, None)
    assert_equal(found, model.state_dict())


def test_problems_with_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no model\.safetensors in "):
        FastResUNetPP.from_pretrained(tmp_path)
    KerasResUNetPP(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="unexpected parameter 'same_padding'"):
        FastResUNetPP.from_pretrained(tmp_path)
    for content, problem in (("{", r"config\.json is no JSON"), ("[]", r"config\.json holds a list")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=problem):
            FastResUNetPP.from_pretrained(tmp_path)


def test_repositories_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = FastResUNetPP(**SMALL), []
    model.save_pretrained(tmp_path)

    def snapshot_download(repository: str, **options: object) -> str:
        asked.append((repository, options))
        return str(tmp_path)

    hub = ModuleType("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert_equal(FastResUNetPP.from_pretrained("clinic/polyps", revision="v2"), model.state_dict())
    files = ["model.safetensors", "config.json"]
    assert asked == [("clinic/polyps", {"revision": "v2", "allow_patterns": files})]


def test_repositories_need_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r'clinic/polyps.*pip install "fastresunet\[hub\]"'):
        FastResUNetPP.from_pretrained("clinic/polyps")


def test_the_network_stays_an_ordinary_module(tmp_path: Path) -> None:
    model = FastResUNetPP(**SMALL)
    model.save_pretrained(tmp_path)
    found = FastResUNetPP.from_pretrained(tmp_path)
    image = torch.rand(1, 3, 16, 16)
    for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert torch.equal(copied(image), found(image))
    assert list(found.state_dict()) == list(ResUNetPP(**SMALL).state_dict())
