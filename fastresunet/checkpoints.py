"""Trained networks from files of this package and of the published models, and to safetensors files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastresunet import pretrained
from fastresunet.errors import CheckpointError
from fastresunet.keras import KerasResUNetPP, load_keras
from fastresunet.model import FastResUNetPP
from fastresunet.pretrained import Pretrained, build, read_weights, reason
from fastresunet.weights_folder import WEIGHTS_FILE, read_folder

# Prefixes that Lightning, DataParallel and torch.compile put before the parameter names.
WRAPPER_PREFIXES = ("model.", "module.", "_orig_mod.")
# Keys under which training scripts nest the parameters.
STATE_KEYS = ("state_dict", "model_state_dict", "model")
ZIP_BEGINNING, LEGACY_BEGINNING = b"PK\x03\x04", b"\x80\x02"


class LoadedNetwork(NamedTuple):
    """A network from a file.

    Attributes:
        model: in evaluation mode on the CPU.
        size: height and width in pixels of the images it was trained at; None if the file does not say.
        classes: of its training, the background first, with their pixel values, such as ``"polyp 1"``; none if the
            file does not say.
    """

    model: FastResUNetPP
    size: int | None
    classes: tuple[str, ...] = ()


def load(path: str | Path) -> FastResUNetPP:
    """Build the network of a file, whatever wrote it.

    Args:
        path: checkpoint of ``fastresunet train``; ``state_dict`` of the published PyTorch model, bare or in the forms
            of training scripts; ``.safetensors``; ``.h5`` of the published TensorFlow model; folder of
            ``save_pretrained``; or, where there is no such file, the name of weights that come with the package.

    Returns:
        The network in float32, in evaluation mode on the CPU; a ``KerasResUNetPP`` for what comes from Keras.

    Raises:
        CheckpointError: the file cannot be read, its parameters are not those of ResUNet++, or its dilation rates
            unknown; or ``.h5`` needs h5py, which is not installed.
    """
    return load_with_size(path).model


def load_with_size(path: str | Path) -> LoadedNetwork:
    """Build the network of a file, with the image size of its training.

    Numbers of channels follow from the shapes of the parameters where the file does not say them.

    Args:
        path: as for ``load``.

    Raises:
        CheckpointError: as ``load`` does.
    """
    path = Path(path)
    if path.suffix == ".h5":
        return LoadedNetwork(_load_keras(path), None)
    weights = _read(path)
    network = KerasResUNetPP if "same_padding" in weights.state else FastResUNetPP
    return LoadedNetwork(build(network, weights, str(path)), weights.size, weights.classes)


def write_weights(model: FastResUNetPP, out: Path, size: int | None = None, classes: tuple[str, ...] = ()) -> None:
    """Write the weights of a network alone, in float32, with its arguments; ``load`` gives the same network.

    Args:
        model: network on any device.
        out: file to write, ``.safetensors``.
        size: height and width in pixels of the images it was trained at; None if unknown.
        classes: of its training, see ``LoadedNetwork``.

    Raises:
        CheckpointError: the file has another suffix, or a parameter is not finite.
        OSError: the file cannot be written.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"a file of format safetensors must end in .safetensors, got {out.name}")
    try:
        pretrained.save_pretrained(out, model.arguments, model.state_dict(), size, torch.float32, classes)
    except ValueError as error:
        raise CheckpointError(f"nothing was written to {out}: {error}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file to the CPU without running any code in it.

    Args:
        path: file written by ``torch.save``.

    Returns:
        The dictionary in the file.

    Raises:
        CheckpointError: the file is missing, truncated, no checkpoint, or holds objects other than tensors and plain
            values.
    """
    raw = _read_bytes(path)
    if not any(raw.startswith(beginning[: len(raw)]) for beginning in (ZIP_BEGINNING, LEGACY_BEGINNING)):
        raise CheckpointError(f"{path} is no PyTorch checkpoint. Use best.ckpt or last.ckpt, or a file of torch.save")
    try:
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged, or holds Python objects that could run code and are not loaded. "
            "Use another copy, or save torch.save(model.state_dict(), FILE) where it was made"
        ) from error
    # Damaged bytes can make the reader raise anything.
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path} is truncated or damaged ({reason(error)}). "
            "Use another copy, for example last.ckpt or best.ckpt of the same training"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"checkpoint {path} holds a {type(content).__name__}, expected a dictionary of parameters"
        )
    return content


def _read(path: Path) -> Pretrained:
    if str(path) in pretrained.names() and not path.exists():
        return pretrained.load_pretrained(str(path))
    if (path / WEIGHTS_FILE).is_file():
        return read_folder(path)
    if path.suffix == ".safetensors" and path.is_file():
        return read_weights(path)
    checkpoint = read_checkpoint(path)
    settings = checkpoint.get("hyper_parameters")
    settings = settings if isinstance(settings, dict) else {}
    size, classes = settings.get("size"), settings.get("classes")
    named = tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()
    return Pretrained({}, _parameters(checkpoint, path), size if isinstance(size, int) else None, named)


def _load_keras(path: Path) -> KerasResUNetPP:
    try:
        return load_keras(path)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        raise CheckpointError(str(error)) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no checkpoint {path}. Training writes best.ckpt and last.ckpt to its --out; "
            f"{', '.join(pretrained.names())} comes with the package"
        ) from error
    except IsADirectoryError as error:
        raise CheckpointError(
            f"{path} is a folder; give the checkpoint file, for example {path / 'best.ckpt'}"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror or error}") from error


def _parameters(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    state = next((checkpoint[key] for key in STATE_KEYS if isinstance(checkpoint.get(key), dict)), checkpoint)
    if not state:
        raise CheckpointError(f"checkpoint {path} holds an empty dictionary, expected the parameters of ResUNet++")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"checkpoint {path} holds no parameters: expected a dictionary of tensors, bare or under "
            f"{', '.join(map(repr, STATE_KEYS))}; found the keys {', '.join(map(repr, list(state)[:5]))}"
        )
    while prefix := next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
