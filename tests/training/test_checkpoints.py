"""Checkpoints of this package, bare and wrapped parameters, and damaged files."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastresunet.cli import main
from fastresunet.keras import KerasResUNetPP
from fastresunet.model import FastResUNetPP
from fastresunet.reference import ResUNetPP
from fastresunet.training.checkpoints import AtomicCheckpointIO, load_model, read_checkpoint
from fastresunet.training.errors import UserError
from fastresunet.training.fit import TrainingResult
from fastresunet.training.trained_network import load_predictor
from tests.keras.emulation import KerasEmulation, write_keras3_weights

from .conftest import FILTERS


def wrap(state: dict[str, Tensor], form: str) -> dict[str, Any]:
    if form == "module. prefix":
        return {f"module.{name}": value for name, value in state.items()}
    if form == "compiled in DataParallel":
        return {"epoch": 3, "state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}}
    if form == "under model_state_dict":
        return {"model_state_dict": state}
    return state


@pytest.mark.parametrize("form", ["bare", "module. prefix", "compiled in DataParallel", "under model_state_dict"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"filters": FILTERS},
        {"filters": (8, 16, 16, 24, 32), "in_channels": 4, "num_classes": 2, "se_reduction": 4},
    ],
    ids=["small", "other arguments"],
)
def test_published_forms_load(tmp_path: Path, form: str, arguments: dict[str, Any]) -> None:
    reference = ResUNetPP(**arguments)
    torch.save(wrap(reference.state_dict(), form), tmp_path / "model.pth")
    model, size, _ = load_model(tmp_path / "model.pth")
    assert size is None
    assert not model.training
    assert model.filters == tuple(arguments["filters"])
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=0, atol=0)


def test_own_checkpoint_loads_with_weights_only(trained: TrainingResult) -> None:
    for path in (trained.best_checkpoint, trained.last_checkpoint):
        torch.load(path, weights_only=True)
        model, size, _ = load_model(path)
        assert size == 32
        assert model.filters == FILTERS


@pytest.mark.parametrize("content", ["a list", {"size": "256"}, {}], ids=str)
def test_hyper_parameters_of_others_are_ignored(tmp_path: Path, content: object) -> None:
    state = ResUNetPP(filters=FILTERS).state_dict()
    torch.save({"state_dict": state, "hyper_parameters": content}, tmp_path / "model.ckpt")
    assert load_model(tmp_path / "model.ckpt")[1] is None


def test_wrong_parameters_are_named(tmp_path: Path) -> None:
    path, state = tmp_path / "model.pth", ResUNetPP(filters=FILTERS).state_dict()

    def save_without(name: str, **changes: Tensor) -> None:
        torch.save({key: value for key, value in state.items() if key != name} | changes, path)

    save_without("output.weight")
    with pytest.raises(UserError, match=r"missing parameter 'output\.weight'"):
        load_model(path)
    save_without("output.bias", head=torch.zeros(1))
    with pytest.raises(UserError, match=r"missing parameter 'output\.bias'"):
        load_model(path)
    save_without("", **{f"head{index}": torch.zeros(1) for index in range(5)})
    with pytest.raises(UserError, match=r"unexpected parameter 'head0', 'head1', 'head2' and 2 more"):
        load_model(path)
    save_without("", **{"output.bias": torch.zeros(4)})
    with pytest.raises(UserError, match=r"size mismatch for output\.bias"):
        load_model(path)


def test_unknown_dilation_rates(tmp_path: Path) -> None:
    torch.save(ResUNetPP(filters=FILTERS, aspp_rates=(1, 2, 3)).state_dict(), tmp_path / "three.pth")
    with pytest.raises(UserError, match=r"three\.pth .* has 3 ASPP branches, whose dilation rates"):
        load_model(tmp_path / "three.pth")


@pytest.mark.parametrize("length", [0, 1, 100, 20_000])
def test_truncated_checkpoint(tmp_path: Path, trained: TrainingResult, length: int) -> None:
    path = tmp_path / "cut.ckpt"
    path.write_bytes(trained.last_checkpoint.read_bytes()[:length])
    with pytest.raises(UserError, match=r"cut\.ckpt .*(truncated|damaged).*another copy"):
        read_checkpoint(path)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    with pytest.raises(UserError, match=r"there is no checkpoint .*file\.pth"):
        load_model(path)
    for content in (b"text, no checkpoint", b"\xff\xd8\xff\xe0\x00\x10JFIF"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"file\.pth is no PyTorch checkpoint"):
            load_model(path)
    with pytest.raises(UserError, match=r"is a folder; give the checkpoint file, for example .*best\.ckpt"):
        load_model(tmp_path)
    torch.save({}, path)
    with pytest.raises(UserError, match=r"holds an empty dictionary"):
        load_model(path)
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"holds Python objects that could run code"):
        load_model(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(UserError, match=r"holds a Tensor, expected a dictionary"):
        load_model(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match=r"holds no parameters.*'epoch'"):
        load_model(path)
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(UserError, match=r"does not hold the parameters of ResUNet\+\+: missing parameter 'c1\."):
        load_model(path)


def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*last\.ckpt: No space left on device.*free some space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert read_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_files_of_keras_and_checkpoints_of_its_network(tmp_path: Path) -> None:
    write_keras3_weights(KerasEmulation(filters=FILTERS, reduction=8), tmp_path / "keras.weights.h5")
    model, size, _ = load_model(tmp_path / "keras.weights.h5")
    assert isinstance(model, KerasResUNetPP)
    assert (model.filters, size, model.training) == (FILTERS, None, False)
    torch.save(model.state_dict(), tmp_path / "state.pth")
    again = load_model(tmp_path / "state.pth").model
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(image), model(image))


def test_problems_with_files_of_keras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"there is no Keras file .*keras\.h5"):
        load_model(tmp_path / "keras.h5")
    (tmp_path / "keras.h5").write_bytes(b"text")
    with pytest.raises(UserError, match=r"keras\.h5 is no HDF5 file"):
        load_model(tmp_path / "keras.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r'pip install "fastresunet\[keras\]"'):
        load_model(tmp_path / "keras.h5")


def test_weights_of_the_package_load_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, size, _ = load_model(Path("kvasir-seg"))
    assert size == 256
    assert torch.equal(model.output.weight, FastResUNetPP.from_pretrained("kvasir-seg").output.weight)
    torch.save(FastResUNetPP(filters=(8, 8, 8, 16, 16)).state_dict(), "kvasir-seg")  # a file of that name goes first
    assert load_model(Path("kvasir-seg"))[0].filters == (8, 8, 8, 16, 16)


def test_exported_weights_evaluate_and_predict_as_their_checkpoint(trained: TrainingResult, tmp_path: Path) -> None:
    out = str(tmp_path / "polyps.safetensors")
    assert main(["export", "--checkpoint", str(trained.best_checkpoint), "--format", "safetensors", "--out", out]) == 0
    (model, size, _), expected = load_model(Path(out)), load_model(trained.best_checkpoint).model
    assert size == 32
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(
        load_predictor(Path(out), "cpu")[0](image), load_predictor(trained.best_checkpoint, "cpu")[0](image)
    )


def test_exported_weights_need_their_suffix(
    trained: TrainingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--checkpoint", str(trained.best_checkpoint), "--format", "safetensors", "--out"]
    assert main([*command, str(tmp_path / "polyps.onnx")]) == 1
    assert capsys.readouterr().err == "error: a file of format safetensors must end in .safetensors, got polyps.onnx.\n"


def test_damaged_safetensors_are_a_problem_for_users(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"text")
    with pytest.raises(UserError, match=r"weights\.safetensors is no safetensors file"):
        load_model(tmp_path / "weights.safetensors")
