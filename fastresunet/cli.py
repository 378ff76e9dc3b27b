"""The command ``fastresunet``: train, evaluate, predict, export, demo, tune, info."""

# ruff: noqa: PLC0415 - sub-commands import what they need, so that help is quick and works without the train extra.

from __future__ import annotations

import argparse
import logging
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fastresunet import __version__

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

# Modules of the train extra; one that is missing is told apart from a fault in the package.
TRAIN_MODULES = (
    "lightning",
    "matplotlib",
    "monai",
    "PIL",
    "rich",
    "scipy",
    "tensorboard",
    "torchmetrics",
    "torchvision",
    "yaml",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after ``fastresunet``; None takes those of the process.

    Returns:
        Exit status: 0 done, 1 a problem that the printed message explains, 130 interrupted. A wrong command line
        exits with 2.
    """
    options, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        # The parser of the sub-command, unlike the outer one, prints the usage that helps.
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    from fastresunet.training.errors import TrainingInterruptedError, UserError

    try:
        options.run(options)
    except TrainingInterruptedError as error:
        return _fail(str(error), 130)
    except UserError as error:
        return _fail(f"error: {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted; files already written are complete.", 130)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in TRAIN_MODULES:
            raise
        return _fail(f'error: this command needs {module}. Run: pip install "fastresunet[train]"', 1)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        usage = options.parser.format_usage()
        smaller = " or ".join(option for option in ("--batch-size", "--size", "--tile") if f"[{option} " in usage)
        return _fail(f"error: out of memory on the device{smaller and f'; choose a smaller {smaller}'}.", 1)
    except OSError as error:
        return _fail(f"error: {error.filename or 'file system'}: {error.strerror or error}", 1)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="fastresunet", description="ResUNet++ polyp segmentation: train, evaluate, predict."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_demo(commands)
    _add_tune(commands)
    _add_info(commands)
    return parser


CHECKPOINT_HELP = (
    "best.ckpt, a state_dict, .safetensors, a folder of save_pretrained, a file of the published TensorFlow model "
    "(.h5; needs the keras extra), or kvasir-seg, which comes with the package"
)
DATA_HELP = "folder with images/ and masks/ of equal file names, and train.txt and val.txt if the split is given"
SIZE_HELP = (
    "height and width to which images are stretched for the network, in pixels, at least 32 "
    "(default: that of the training, 256 if unknown)"
)


def _add_train(commands: Commands) -> None:
    parser = _add_command(
        commands,
        "train",
        run_train,
        "Train on a folder of images and masks.",
        """examples:
  fastresunet train --data Kvasir-SEG --out runs/kvasir
  fastresunet train --data Kvasir-SEG --out runs/kvasir --resume
  fastresunet train --data my-clinic --out runs/clinic --checkpoint kvasir-seg --lr 3e-4 --epochs 60
  fastresunet train --data Kvasir-SEG --out runs/again --config runs/kvasir/run.yaml --seed 1
  fastresunet train --data Kvasir-SEG --out runs/folds --folds 5
  fastresunet train --data ultrasound --out runs/ultrasound --in-channels 1 --foreground 1 --mask-suffix _mask
  fastresunet train --data instruments --out runs/instruments --classes 8

writes to --out: best.ckpt (best validation Dice), last.ckpt (to resume), run.yaml (the recipe, the names of the
training and the validation images, versions), epochs.csv, curves.png, validation.png, tensorboard/; with --folds, a
folder a fold and folds.csv. Without train.txt and val.txt, about 15 % of the images validate, always the same ones.
Ctrl-C saves last.ckpt and stops. The defaults are the recipe of the weights kvasir-seg, which come with the
package.""",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=DATA_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="run.yaml of an earlier training: its recipe and, if they are in --data, its images; further options win",
    )
    _add_lists(parser, "train and validate on")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from last.ckpt in --out with its recipe; --epochs and --patience may change",
    )
    _add_recipe(parser)
    parser.add_argument(
        "--folds",
        type=_at_least(2),
        metavar="K",
        help="cross-validation: K trainings, in each of which another K-th of the images validates, at least 2",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder for a file that keeps the images at --size, for sets that do not fit in memory and for later "
        "trainings; 4 x size x size bytes an image",
    )
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave out files that cannot be used, and name them, and go on"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network with torch.compile, without CUDA graphs"
    )
    _add_cuda_graphs(parser, "the whole training step")
    _add_device(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    recipe = parser.add_argument_group("recipe", argument_default=argparse.SUPPRESS)
    recipe.add_argument(
        "--size",
        type=_at_least(32),
        help="height and width to which images are stretched, in pixels, at least 32 (default: 256)",
    )
    recipe.add_argument(
        "--in-channels",
        type=int,
        choices=[1, 3],
        help="3 reads images as RGB, 1 as grey, whatever the files are (default: 3)",
    )
    _add_mask_format(recipe)
    recipe.add_argument(
        "--filters",
        type=_at_least(8),
        nargs=5,
        metavar=("STEM", "BLOCK1", "BLOCK2", "BLOCK3", "BRIDGE"),
        help="channels of stem, three encoder blocks and bridge, each at least 8 (default: 16 32 64 128 256, or those "
        "of --checkpoint)",
    )
    recipe.add_argument("--checkpoint", metavar="FILE", help=f"weights to start from: {CHECKPOINT_HELP}")
    recipe.add_argument(
        "--epochs", type=_at_least(1), help="passes over the training images, at least 1 (default: 160)"
    )
    recipe.add_argument("--batch-size", type=_at_least(1), help="images per step and device, at least 1 (default: 16)")
    recipe.add_argument(
        "--accumulate",
        type=_at_least(1),
        help="batches whose gradients are averaged for one step of the optimiser, at least 1 (default: 1)",
    )
    recipe.add_argument(
        "--optimizer", choices=["adamw", "sgd"], help="AdamW, or SGD with Nesterov momentum 0.9 (default: adamw)"
    )
    recipe.add_argument(
        "--lr",
        type=_number(lambda lr: 0 < lr < math.inf, "positive and finite"),
        help="highest learning rate, above 0 (default: 0.001)",
    )
    recipe.add_argument(
        "--weight-decay",
        type=_number(lambda decay: 0 <= decay < math.inf, "at least 0 and finite"),
        help="of the convolutions' kernels, at least 0 (default: 0.05)",
    )
    recipe.add_argument(
        "--warm-up",
        type=_number(lambda share: 0 <= share < 1, "at least 0 and below 1"),
        help="share of all steps in which the learning rate rises from 0 (default: 0.06)",
    )
    recipe.add_argument(
        "--schedule",
        choices=["cosine", "constant"],
        help="learning rate after the warm-up: down to 0 along half a cosine, or constant (default: cosine)",
    )
    recipe.add_argument(
        "--clip-norm",
        type=_number(lambda norm: 0 <= norm < math.inf, "at least 0 and finite"),
        help="gradients are scaled down to this norm; 0: never (default: 1)",
    )
    recipe.add_argument(
        "--loss",
        choices=["bce-dice", "dice", "tversky", "focal"],
        help="bce-dice: cross-entropy plus Dice; tversky: misses weigh more than false alarms (default: bce-dice)",
    )
    recipe.add_argument(
        "--augmentation",
        choices=["none", "light", "strong"],
        help="random changes of training images (default: strong)",
    )
    recipe.add_argument(
        "--average",
        type=_number(lambda share: 0 <= share < 1, "at least 0 and below 1"),
        help="share that the moving average of the weights, which is validated and saved, keeps in every step; 0: no "
        "average (default: 0.999)",
    )
    recipe.add_argument(
        "--precision",
        choices=["auto", "32", "bf16", "16"],
        help="bits of the arithmetic; auto: bf16 on GPUs that have it, else 32 (default: auto)",
    )
    recipe.add_argument(
        "--monitor",
        choices=["val_dice", "val_iou", "val_loss"],
        help="score that chooses best.ckpt and stops early (default: val_dice)",
    )
    recipe.add_argument(
        "--patience",
        type=_at_least(0),
        help="stop after this many epochs without a better score; 0: never, so that the learning rate reaches its end "
        "(default: 0)",
    )
    recipe.add_argument(
        "--val-fraction",
        type=_number(lambda share: 0 < share < 1, "above 0 and below 1"),
        help="share of the images that validate, without train.txt and val.txt (default: 0.15)",
    )
    recipe.add_argument("--devices", type=_at_least(1), help="number of devices, at least 1 (default: 1)")
    recipe.add_argument("--seed", type=_at_least(0), help="seed of all randomness, at least 0 (default: 0)")


def _add_lists(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument(
        "--lists",
        choices=["kvasir-seg"],
        help=f"{purpose} the images of an official split that comes with the package; kvasir-seg: 880 and 120 images",
    )


def _add_mask_format(parser: argparse._ActionsContainer) -> None:
    meaning = parser.add_mutually_exclusive_group()
    meaning.add_argument(
        "--classes",
        type=_classes,
        metavar="N|FILE",
        default=argparse.SUPPRESS,
        help="masks of several classes: how many there are with the background, pixels holding their number from 0; or "
        "a text file with a class a line, the background first, as 'polyp 1' or 'polyp #ff0000' (default: a pixel is "
        "foreground or not)",
    )
    meaning.add_argument(
        "--foreground",
        type=_at_least(0),
        nargs="*",
        metavar="VALUE",
        default=argparse.SUPPRESS,
        help="grey levels of the foreground in masks, such as 1 for masks of 0 and 1; without a value all above 127, "
        "which is the default",
    )
    parser.add_argument(
        "--mask-suffix",
        metavar="TEXT",
        default=argparse.SUPPRESS,
        help="what names of masks have after those of images: _mask for images/7.jpg and masks/7_mask.png "
        "(default: nothing)",
    )


def _add_evaluate(commands: Commands) -> None:
    parser = _add_command(
        commands,
        "evaluate",
        run_evaluate,
        "Score a checkpoint at the original image sizes.",
        """examples:
  fastresunet evaluate --checkpoint runs/kvasir/best.ckpt --data Kvasir-SEG --out runs/kvasir/evaluation
  fastresunet evaluate --checkpoint published.pth --data CVC-ClinicDB --split all --size 256
  fastresunet evaluate --checkpoint kvasir-seg --data Kvasir-SEG --lists kvasir-seg
  fastresunet evaluate --checkpoint kvasir-seg --data Kvasir-SEG CVC-ClinicDB --out evaluation

writes to --out: report.html, to read and to print; per_image.csv, summary.csv, thresholds.csv, calibration.csv, and of
several classes per_class.csv. With several data folders these lie in a folder each, and summary.csv beside them holds
all. docs/training.md defines the metrics.""",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=CHECKPOINT_HELP)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help=f"{DATA_HELP}; several folders, of different names, are scored one by one",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for report and tables (default: print only)")
    parser.add_argument(
        "--split",
        choices=["train", "val", "all"],
        help="images to score (default: in the folder of the training its validation images, in another one all)",
    )
    _add_lists(parser, "score, as --split says, by default to validate, among")
    masks = parser.add_argument_group("masks", "how those of --data are read; by default as in the training")
    _add_mask_format(masks)
    parser.add_argument("--size", type=_at_least(32), help=SIZE_HELP)
    _add_augment(parser)
    _add_threshold(parser)
    parser.add_argument(
        "--surface-distances",
        action="store_true",
        help="also measure how far the outlines of truth and prediction lie apart, in pixels of the image: the 95th "
        "percentile of the Hausdorff distance, and the average; takes about 0.03 s for an image of 600x500 pixels and "
        "0.14 s for one of 1920x1080 on one CPU core, up to twenty times that where the prediction is in many pieces",
    )
    _add_cuda_graphs(parser, "the network")
    _add_device(parser)


def _add_predict(commands: Commands) -> None:
    parser = _add_command(
        commands,
        "predict",
        run_predict,
        "Segment images and videos; masks have the original size.",
        """examples:
  fastresunet predict --checkpoint runs/kvasir/best.ckpt --out predictions frame1.png frame2.png
  fastresunet predict --checkpoint runs/kvasir/best.ckpt --out predictions --overlays "video/*.jpg"
  fastresunet predict --checkpoint runs/kvasir/best.ckpt --out predictions --augment --batch-size 32 frames/
  fastresunet predict --checkpoint runs/kvasir/best.ckpt --out predictions --tile 256 panoramas/
  fastresunet predict --checkpoint kvasir-seg --out predictions --skip-existing frames/ colonoscopy.mp4

An image is stretched to --size, as in training, and the result is stretched back. That loses what is small in a large
image: --tile looks at every part of it at its own resolution. It expects polyps that are about as many pixels
wide as in the training images after their stretching; if they are wider, shrink the images first.

writes to --out: masks/NAME.png (0 background, 255 polyp; of several classes a palette's indices, the pixel values of
the training), on request overlays/NAME.png, probabilities/NAME.png (NAME.0-CLASS.png), and predictions.csv: size, area,
box and confidence of every image and class. Of videos (.avi, .mkv, .mov, .mp4; needs the extra
"video") videos/NAME.mp4 with the masks drawn on it, and videos/NAME.csv with a row a frame. What cannot be read is
named and left out; the exit status is then 1.""",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="image or video file, folder of them, or glob pattern"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=CHECKPOINT_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, not a data folder")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--size", type=_at_least(32), help=SIZE_HELP)
    shape.add_argument(
        "--tile",
        type=_at_least(32),
        help="cover images with overlapping square tiles of this height and width, in pixels, at least 32, instead of "
        "stretching them; best the --size of the training",
    )
    parser.add_argument(
        "--overlap",
        type=_number(lambda share: 0 <= share < 1, "at least 0 and below 1"),
        default=0.5,
        help="with --tile: share of a tile's side that the next one covers again; less is faster, more hides the "
        "borders of the tiles better (default: 0.5)",
    )
    _add_augment(parser)
    parser.add_argument(
        "--batch-size",
        type=_at_least(1),
        help="images, frames or tiles that the network computes at once, at least 1; the next images are read "
        "meanwhile (default: 8 on a GPU, 1 on the CPU, where more are slower)",
    )
    _add_threshold(parser)
    parser.add_argument("--overlays", action="store_true", help="also write the images with their masks drawn on")
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out images and videos whose mask or film is already in --out; predictions.csv keeps their rows",
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="also write 16-bit grey PNGs, 65535 for probability 1"
    )
    _add_cuda_graphs(parser, "the network")
    _add_device(parser)


def _add_export(commands: Commands) -> None:
    parser = _add_command(
        commands,
        "export",
        run_export,
        "Write a checkpoint's network to a file that runs elsewhere, or its weights alone.",
        """examples:
  fastresunet export --checkpoint runs/kvasir/best.ckpt --format onnx --out polyps.onnx
  fastresunet export --checkpoint runs/kvasir/best.ckpt --format torch-export --out polyps.pt2
  fastresunet export --checkpoint runs/kvasir/best.ckpt --format aoti --out polyps-cpu.pt2
  fastresunet export --checkpoint runs/kvasir/best.ckpt --format safetensors --out polyps.safetensors

onnx          runs in ONNX Runtime, OpenVINO, TensorRT; standard operators only; needs: pip install "fastresunet[cpu]"
torch-export  runs in PyTorch, without this package: torch.export.load(FILE).module()
aoti          runs in PyTorch or C++ on CPUs like this machine's: torch._inductor.aoti_load_package(FILE); needs g++
safetensors   the weights in float32, for this package: evaluate, predict, fastresunet.load(FILE)

The first three are folded for inference. Such a file maps images, float32 (N, channels, H, W), RGB or grey in 0..1,
to logits (N, classes, H, W), whose sigmoid is the probability, or of several classes the softmax, for any N and any H
and W that are multiples of 8 from 16 on. It holds what input and output mean, the size of the training and the version
as metadata. It is run and compared with the network before it is put in place.
docs/inference.md shows how to run each format.""",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=CHECKPOINT_HELP)
    parser.add_argument(
        "--format",
        choices=["onnx", "torch-export", "aoti", "safetensors"],
        required=True,
        help="onnx: any ONNX runtime; torch-export: torch.export.load; aoti: compiled for this machine's CPU; "
        "safetensors: the weights alone",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write: .onnx, .safetensors, or .pt2 for the others",
    )


def _add_demo(commands: Commands) -> None:
    parser = _add_command(
        commands,
        "demo",
        run_demo,
        "Train for a minute and compare with the reference; needs no data.",
        """examples:
  fastresunet demo
  fastresunet demo --data Kvasir-SEG --seconds 300

writes to --out/run-1 (run-2, ... when repeated): overlays.png, the trained model, its logs.""",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"{DATA_HELP} (default: draw synthetic polyps)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="folder to write (default: demo-out)"
    )
    parser.add_argument("--seconds", type=_at_least(1), default=60, help="time to train, at least 1 (default: 60)")


def _add_tune(commands: Commands) -> None:
    parser = _add_command(
        commands,
        "tune",
        run_tune,
        "Time the kernels on this GPU and remember the fastest; changes nothing until it is enabled.",
        """examples:
  fastresunet tune --size 352 --batch-size 16 --precision bf16
  fastresunet tune --checkpoint runs/kvasir/best.ckpt --no-training --batch-size 1

Give the size, batch size and precision of your own training: other ones have other fastest kernels. Every kernel is
compiled in several configurations, which takes long the first time.

writes to FASTRESUNET_CACHE, or else ~/.cache/fastresunet: one file for this GPU, Triton and PyTorch, to which further
runs add. Enable it with FASTRESUNET_AUTOTUNE=1 in the environment of your training; sizes that were not tuned run as
without it, as does everything under torch.use_deterministic_algorithms(True). To forget all, delete the file.""",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="take the channels of this network (default: published ones)"
    )
    parser.add_argument("--size", type=_at_least(32), help=SIZE_HELP)
    parser.add_argument("--batch-size", type=_at_least(1), default=8, help="images at once, at least 1 (default: 8)")
    _add_precision(parser)
    parser.add_argument(
        "--no-training", action="store_true", help="tune for evaluation and prediction only, which is quicker"
    )


def _add_info(commands: Commands) -> None:
    _add_command(commands, "info", run_info, "Show versions, devices and backends.", "")


def _add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], purpose: str, notes: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=notes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto takes CUDA if there (default: auto)"
    )


def _add_cuda_graphs(parser: argparse.ArgumentParser, captured: str) -> None:
    parser.add_argument(
        "--no-cuda-graphs",
        action="store_true",
        help=f"launch every kernel on its own; by default, on one CUDA device, {captured} is captured in a CUDA graph "
        "for each shape and replayed, which frees the host",
    )


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", choices=["32", "bf16", "16"], default="32", help="bits of the arithmetic (default: 32)"
    )


def _add_augment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--augment",
        action="store_true",
        help="average the probabilities over 8 flips and quarter turns of each image (test-time augmentation); takes 8 "
        "times as long",
    )


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=_number(lambda probability: 0 <= probability <= 1, "between 0 and 1"),
        default=0.5,
        help="foreground is where the probability is above, 0 to 1; of several classes the likeliest is taken "
        "(default: 0.5)",
    )


def run_train(options: argparse.Namespace) -> None:
    """Train as the options say."""
    from lightning.pytorch.utilities import rank_zero_only

    from fastresunet.training.configure import configure
    from fastresunet.training.errors import UserError
    from fastresunet.training.fit import train
    from fastresunet.training.folds import train_folds
    from fastresunet.training.recipe import Machine
    from fastresunet.training.split import named_split

    _quieten_lightning()
    earlier = options.out / "fold-1" if options.folds else options.out
    run = configure(vars(options), options.config, earlier if options.resume else None)
    machine = Machine(options.device, options.compile, not options.no_cuda_graphs)
    settings = {"cache": options.cache, "skip_damaged": options.skip_damaged, "resume": options.resume}
    names = run.names if options.lists is None else named_split(options.lists)
    if options.folds:
        if options.lists is not None:
            raise UserError("--folds splits the images by itself; leave out --lists.")
        if run.recipe.devices > 1:
            raise UserError("--folds trains on one device; leave out --devices.")
        result = train_folds(options.data, options.out, options.folds, run.recipe, machine, **settings)
        print(f"{run.recipe.monitor}: {result.mean:.4f} on average, standard deviation {result.deviation:.4f}")
        print(f"Scores of each fold: {result.table}")
        return
    trained = train(options.data, options.out, run.recipe, machine, names=names, **settings)
    # One of several processes speaks for all.
    say = rank_zero_only(print)
    say(f"Best {run.recipe.monitor} {trained.best_score:.4f}: {trained.best_checkpoint}")
    say(f"Dice of the best constant prediction: {trained.constant_dice:.4f}")
    say(f"Look at {options.out / 'curves.png'} and {options.out / 'validation.png'}")
    say(f"Next: fastresunet evaluate --checkpoint {trained.best_checkpoint} --data {options.data}")


def run_evaluate(options: argparse.Namespace) -> None:
    """Score a checkpoint as the options say."""
    import rich

    from fastresunet.training.evaluate import evaluate, named_folders
    from fastresunet.training.evaluation import ClassesEvaluation, ScoredImages
    from fastresunet.training.evaluation_files import write_joint_summary
    from fastresunet.training.evaluation_tables import joint_table, score_table
    from fastresunet.training.trained_network import format_of

    form = format_of(options.checkpoint, vars(options))
    folders = named_folders(options.data, form, options.lists)
    several = len(folders) > 1
    evaluations: dict[str, ScoredImages] = {}
    for name, folder in folders.items():
        out = options.out / name if several and options.out is not None else options.out
        evaluation = evaluate(
            options.checkpoint,
            folder,
            out,
            split=options.split,
            official=options.lists,
            size=options.size,
            augment=options.augment,
            threshold=options.threshold,
            surface_distances=options.surface_distances,
            form=form,
            device=options.device,
            cuda_graphs=not options.no_cuda_graphs,
        )
        evaluations[name] = evaluation
        rich.print(score_table(evaluation, f"{name}: {len(evaluation.names)} images"))
        if isinstance(evaluation, ClassesEvaluation):
            rich.print(joint_table(evaluation.classes, "class"))
        if evaluation.without_surface_distances:
            print(f"Without surface distances, as a mask is empty: {evaluation.without_surface_distances} images")
        print(f"Dice of the best constant prediction: {evaluation.best_constant_dice:.4f}")
        if out is not None:
            print(f"Report: {out / 'report.html'}")
            print(f"Scores of each image: {out / 'per_image.csv'}")
    if several:
        rich.print(joint_table(evaluations))
        if options.out is not None:
            write_joint_summary(evaluations, options.out / "summary.csv")
            print(f"Scores of all data sets: {options.out / 'summary.csv'}")


def run_predict(options: argparse.Namespace) -> None:
    """Segment images as the options say."""
    from fastresunet.training.predict import predict
    from fastresunet.training.predictor import PredictionOptions

    written = predict(
        options.checkpoint,
        options.inputs,
        options.out,
        PredictionOptions(
            size=options.size,
            tile=options.tile,
            overlap=options.overlap,
            augment=options.augment,
            batch_size=options.batch_size,
            threshold=options.threshold,
            overlays=options.overlays,
            probabilities=options.probabilities,
            skip_existing=options.skip_existing,
            device=options.device,
            cuda_graphs=not options.no_cuda_graphs,
        ),
    )
    if written.masks or not written.videos:
        print(f"Masks written to {options.out / 'masks'}: {len(written.masks)}")
    if written.videos:
        print(f"Videos written to {options.out / 'videos'}: {len(written.videos)}")


def run_export(options: argparse.Namespace) -> None:
    """Export a checkpoint as the options say."""
    from fastresunet.checkpoints import load_with_size, write_weights
    from fastresunet.errors import CheckpointError
    from fastresunet.inference import ExportError, export, fold
    from fastresunet.training.errors import UserError

    file = options.out
    try:
        model, size, classes = load_with_size(options.checkpoint)
        if options.format == "safetensors":
            write_weights(model, file, size, classes)
        else:
            export(fold(model), file, options.format, size, classes)
    except (CheckpointError, ExportError) as error:
        raise UserError(f"{error}.") from error
    checked = "" if options.format == "safetensors" else " and checked"
    print(f"Written{checked}: {file} ({file.stat().st_size / 1e6:.1f} MB)")


def run_demo(options: argparse.Namespace) -> None:
    """Run the demonstration as the options say."""
    from fastresunet.training.demo import demo

    _quieten_lightning()
    demo(options.data, options.out, options.seconds)


def run_tune(options: argparse.Namespace) -> None:
    """Tune the kernels as the options say."""
    import rich

    from fastresunet.training.tune import tables, tune_network

    tuning, file = tune_network(
        options.checkpoint,
        size=options.size,
        batch_size=options.batch_size,
        precision=options.precision,
        training=not options.no_training,
    )
    rich.print(*tables(tuning), sep="\n")
    print(f"Written to {file}")
    print("Next: export FASTRESUNET_AUTOTUNE=1, then train, evaluate or predict as before.")


def run_info(options: argparse.Namespace) -> None:
    """Print versions, devices and backends."""
    from fastresunet.training.info import describe

    print(describe())


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return integer


def _number(accepts: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text}")
        return value

    return number


def _classes(text: str) -> tuple[str, ...]:
    from fastresunet.training.data_format import read_class_list
    from fastresunet.training.errors import UserError

    try:
        return read_class_list(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _quieten_lightning() -> None:
    # Lightning's hints address those who wrote the training, not those who run it.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
