"""The command line: help, exit codes, messages without traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastresunet import __version__, tuning
from fastresunet.cli import main
from fastresunet.training import demo, fit, tune
from fastresunet.training.fit import TrainingResult

from .conftest import FILTERS

SMALL = ["--size", "32", "--batch-size", "4", "--device", "cpu", "--filters", *map(str, FILTERS)]


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export", "demo", "tune", "info"])
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert command == "info" or f"fastresunet {command} " in text.partition("examples:")[2]


def test_help_needs_no_train_extra() -> None:
    heavy = "{'lightning', 'torchmetrics', 'torchvision', 'PIL', 'rich', 'matplotlib'}"
    code = f"import sys, fastresunet.cli as cli; cli.build_parser(); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_missing_train_extra() -> None:
    code = "import sys; sys.modules['lightning'] = None; from fastresunet.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "--data", "data", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == 'error: this command needs lightning. Run: pip install "fastresunet[train]"\n'


def test_train_evaluate_predict(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = tmp_path / "run", str(shared_data)
    assert main(["train", "--data", data, "--out", str(run), "--epochs", "1", *SMALL]) == 0
    output = capsys.readouterr().out
    assert "Next: fastresunet evaluate --checkpoint" in output
    assert "Epoch" not in output
    assert "" not in output.splitlines()
    checkpoint = ["--checkpoint", str(run / "best.ckpt"), "--device", "cpu"]
    assert main(["evaluate", "--data", data, "--out", str(run), *checkpoint]) == 0
    assert "per_image.csv" in capsys.readouterr().out.replace("\n", "")
    assert main(["predict", str(shared_data / "images/000*.png"), "--out", str(run), *checkpoint]) == 0
    assert len(list((run / "masks").iterdir())) == 10
    options = ["--tile", "32", "--overlap", "0.25", "--augment", "--batch-size", "2"]
    assert main(["predict", str(shared_data / "images/0010.png"), "--out", str(run), *options, *checkpoint]) == 0
    assert capsys.readouterr().out == f"Masks written to {run / 'masks'}: 10\nMasks written to {run / 'masks'}: 1\n"


def test_train_again_from_a_record(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--data", str(shared_data), "--device", "cpu"]
    first, again = tmp_path / "first", tmp_path / "again"
    recipe = ["--epochs", "1", "--size", "32", "--batch-size", "4", "--loss", "focal", "--average", "0"]
    assert main([*command, "--out", str(first), *recipe, "--filters", *map(str, FILTERS)]) == 0
    assert main([*command, "--out", str(again), "--config", str(first / "run.yaml")]) == 0
    states = [torch.load(run / "last.ckpt", weights_only=True) for run in (first, again)]
    torch.testing.assert_close(states[0]["state_dict"], states[1]["state_dict"], rtol=0, atol=0)
    assert states[0]["hyper_parameters"] == states[1]["hyper_parameters"]
    # Resuming needs no recipe, and refuses another one.
    assert main([*command, "--out", str(again), "--resume", "--lr", "0.5"]) == 1
    assert "was trained with --lr 0.001, now given: 0.5" in capsys.readouterr().err
    assert main([*command, "--out", str(again), "--resume", "--epochs", "2"]) == 0
    output = capsys.readouterr().out
    assert "--epochs: 2, before: 1" in output
    assert "8 images to train on, 4 to validate; 2 batches of 4 an epoch, 32x32 pixels, 32 on cpu; 2 epochs" in output
    assert "Dice of the best constant prediction" in output


def test_evaluation_says_which_images(
    shared_data: Path, trained: TrainingResult, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--data", str(shared_data), "--device", "cpu", "--checkpoint"]
    assert main([*command, str(trained.best_checkpoint)]) == 0
    assert f"2 images of {shared_data}: the validation images of its training" in capsys.readouterr().out


def test_cross_validation(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--epochs", "1", "--folds", "2", *SMALL]
    assert main(["train", "--data", str(shared_data), "--out", str(tmp_path), *options]) == 0
    output = capsys.readouterr().out
    assert f"Fold 2 of 2: {tmp_path / 'fold-2'}" in output
    assert "val_dice: 0." in output
    assert f"Scores of each fold: {tmp_path / 'folds.csv'}" in output
    # Resuming takes the recipe of the folds.
    assert main(["train", "--data", str(shared_data), "--out", str(tmp_path), "--folds", "2", "--resume"]) == 0
    assert "Fold" not in capsys.readouterr().out.partition("Scores")[0]


def test_evaluate_several_folders(
    trained: TrainingResult,
    shared_data: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    other, out = data.rename(tmp_path / "other"), tmp_path / "out"
    command = ["evaluate", "--checkpoint", str(trained.best_checkpoint), "--device", "cpu", "--split", "all"]
    command += ["--data", str(shared_data), str(other), "--surface-distances"]
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in ("data: 12 images", "other: 6 images", "95 % interval", "best constant prediction"):
        assert words in printed
    assert "…" not in printed
    assert "Means over the images of each data set" in printed
    for name in ("data", "other"):
        written = {path.name for path in (out / name).iterdir()}
        assert written == {"report.html", "per_image.csv", "summary.csv", "thresholds.csv", "calibration.csv"}
    rows = (out / "summary.csv").read_text().splitlines()
    assert rows[0].startswith("data_set,metric,images,image_mean,")
    assert [row.split(",")[:3] for row in rows if ",dice," in row] == [["data", "dice", "12"], ["other", "dice", "6"]]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "--out", "out"],
        ["train", "--data", "d", "--out", "o", "--size", "8"],
        ["train", "--data", "d", "--out", "o", "--epochs", "many"],
        ["train", "--data", "d", "--out", "o", "--precision", "8"],
        ["train", "--data", "d", "--out", "o", "--lr", "inf"],
        ["train", "--data", "d", "--out", "o", "--lr", "nan"],
        ["train", "--data", "d", "--out", "o", "--folds", "1"],
        ["train", "--data", "d", "--out", "o", "--warm-up", "1"],
        ["train", "--data", "d", "--out", "o", "--average", "1"],
        ["train", "--data", "d", "--out", "o", "--val-fraction", "0"],
        ["train", "--data", "d", "--out", "o", "--loss", "mse"],
        ["tune", "--batch-size", "0"],
        ["tune", "--precision", "64"],
        ["evaluate", "--checkpoint", "c", "--data"],
        ["predict", "--checkpoint", "c", "--out", "o"],
        ["predict", "--checkpoint", "c", "--out", "o", "--size", "64", "--tile", "64", "image.png"],
        ["predict", "--checkpoint", "c", "--out", "o", "--tile", "64", "--overlap", "1", "image.png"],
        ["predict", "--checkpoint", "c", "--out", "o", "--threshold", "50", "image.png"],
    ],
    ids=" ".join,
)
def test_wrong_command_line_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: fastresunet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--filters", "4", "8", "8", "8", "8"], "argument --filters: must be at least 8, got 4"), (["--fly"], "--fly")],
)
def test_wrong_option_prints_the_usage_of_its_command(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--data", "d", "--out", "o", *words])
    error = capsys.readouterr().err
    assert error.startswith("usage: fastresunet train ")
    assert message in error.splitlines()[-1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"fastresunet {__version__}\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--data", "{data}", "--out", "{out}", *SMALL], "cannot read image {data}/images/0002.png"),
        (["train", "--data", "{out}", "--out", "{out}", *SMALL], "there is no folder {out}/images"),
        (["evaluate", "--data", "{data}", "--checkpoint", "{out}/a.ckpt"], "there is no checkpoint {out}/a.ckpt"),
        (["predict", "{data}/*.gif", "--checkpoint", "{out}/a.ckpt", "--out", "{out}"], "matches no file"),
    ],
    ids=["corrupt image", "no data", "no checkpoint", "no input"],
)
def test_problems_exit_with_1_and_a_message(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    (data / "images/0002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    names = {"data": str(data), "out": str(tmp_path)}
    assert main([word.format(**names) for word in command]) == 1
    error = capsys.readouterr().err
    assert message.format(**names) in error
    assert "Traceback" not in error


def test_a_damaged_image_exits_with_1_after_the_others(
    trained: TrainingResult, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images/0002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "out"
    command = ["predict", str(data / "images"), "--checkpoint", str(trained.best_checkpoint), "--out", str(out)]
    assert main(command) == 1
    assert f"error: 1 of 6 files could not be read: {data / 'images/0002.png'}; all" in capsys.readouterr().err
    assert len(list((out / "masks").iterdir())) == 5
    (data / "images/0002.png").write_bytes((data / "images/0001.png").read_bytes())
    assert main([*command, "--skip-existing"]) == 0
    output = capsys.readouterr().out
    assert output == f"Already there and left out: 5 of 6 files\nMasks written to {out / 'masks'}: 1\n"
    assert len((out / "predictions.csv").read_text().splitlines()) == 7


def test_output_folder_that_is_a_file(
    trained: TrainingResult, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("keep")
    image, checkpoint = str(shared_data / "images/0000.png"), str(trained.best_checkpoint)
    assert main(["predict", image, "--checkpoint", checkpoint, "--out", str(tmp_path / "file")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "keep"


def test_interrupt_exits_with_130_and_says_how_to_resume(shared_data: Path, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from fastresunet.cli import main
from fastresunet.training.lightning_module import SegmentationModule
step = SegmentationModule.training_step
def interrupted(self, batch):
    os.kill(os.getpid(), signal.SIGINT)
    return step(self, batch)
SegmentationModule.training_step = interrupted
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "train", "--data", str(shared_data), "--out", str(tmp_path), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "with --resume to go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "last.ckpt").is_file()


def test_interrupt_elsewhere_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Raised as Python does on the signal, which processes started in a shell's background ignore.
    def train(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "train", train)
    assert main(["train", "--data", "d", "--out", "o"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_out_of_memory_names_the_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def train(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(fit, "train", train)
    assert main(["train", "--data", "d", "--out", "o"]) == 1
    assert "smaller --batch-size or --size" in capsys.readouterr().err


def test_tune_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["tune"]) == 1
    assert "tuning times kernels on a GPU; none is available" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--no-training"]], ids=["training", "evaluation"])
def test_tune_says_what_it_chose_and_where_it_is(
    trained: TrainingResult,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FASTRESUNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tune, "_gpu", lambda: torch.device("cpu"))

    def tuned(calls: dict[str, tuning.CountedCall], *_: object) -> tuning.Tuning:
        operations = {key: tuning.OperationTimes(x.call.name, x.count, 1.0, 9.0, 9.0) for key, x in calls.items()}
        return tuning.Tuning({}, operations)

    monkeypatch.setattr(tuning, "tune", tuned)
    options = ["--checkpoint", str(trained.best_checkpoint), "--size", "32", "--batch-size", "2", *words]
    assert main(["tune", *options]) == 0
    output = capsys.readouterr().out
    (file,) = (tmp_path / "cache").iterdir()
    assert f"Written to {file}\nNext: export FASTRESUNET_AUTOTUNE=1" in output
    assert ("conv_backward" in output) == (not words)
    backends = json.loads(file.read_text())["backends"]
    assert set(backends.values()) == {"torch"}


def test_info_names_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("fastresunet", "torch:", "cpu:", "triton: "):
        assert word in text


def test_demo_trains_scores_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SIZE", 32)
    monkeypatch.setattr(demo, "SYNTHETIC_IMAGES", 16)
    result = demo.demo(None, tmp_path, seconds=2)
    assert result.folder == tmp_path / "run-1"
    assert (result.folder / "overlays.png").is_file()
    assert 0 <= result.dice <= 1
    assert 0 < result.constant_dice < 1
    assert result.comparison.output_difference < 1e-3
    assert result.comparison.activation_bytes > 0
