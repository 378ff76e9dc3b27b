"""Read and write checkpoints: those of this package and those of the published model."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from fastresunet import pretrained
from fastresunet.keras import KerasResUNetPP, load_keras
from fastresunet.model import FastResUNetPP
from fastresunet.training.errors import UserError
from fastresunet.training.files import write_atomically

# Prefixes that Lightning, DataParallel and torch.compile put before the parameter names.
WRAPPER_PREFIXES = ("model.", "module.", "_orig_mod.")
# Keys under which training scripts nest the parameters.
STATE_KEYS = ("state_dict", "model_state_dict", "model")
PUBLISHED_SE_REDUCTION = 8
# A checkpoint does not say its dilation rates; those of four branches are the published ones.
ASPP_BRANCHES = 4
ZIP_BEGINNING, LEGACY_BEGINNING = b"PK\x03\x04", b"\x80\x02"
NAMED_PARAMETERS = 3


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to disk: whole files only, and nothing but tensors and plain values read back."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint completely or not at all."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; the arguments after ``path`` are Lightning's and not used."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file to the CPU without running any code in it.

    Args:
        path: file written by ``torch.save``.

    Returns:
        The dictionary in the file.

    Raises:
        UserError: the file is missing, truncated, no checkpoint, or holds objects other than tensors and plain values.
    """
    raw = _read_bytes(path)
    if not any(raw.startswith(beginning[: len(raw)]) for beginning in (ZIP_BEGINNING, LEGACY_BEGINNING)):
        raise UserError(f"{path} is no PyTorch checkpoint. Use best.ckpt or last.ckpt, or a file of torch.save.")
    try:
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} is damaged, or holds Python objects that could run code and are not loaded. "
            "Use another copy, or save torch.save(model.state_dict(), FILE) where it was made."
        ) from error
    # Damaged bytes can make the reader raise anything.
    except Exception as error:
        raise UserError(
            f"checkpoint {path} is truncated or damaged ({_reason(error)}). "
            "Use another copy, for example last.ckpt or best.ckpt of the same training."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, expected a dictionary of parameters.")
    return content


def load_model(path: Path) -> tuple[FastResUNetPP, int | None]:
    """Build the network of a checkpoint, in evaluation mode on the CPU.

    Checkpoints of this package, bare ``state_dict`` files and files of the published models, in PyTorch and TensorFlow,
    load alike: the numbers of channels follow from the shapes of the parameters.

    Args:
        path: checkpoint file; one that ends in ``.h5`` is read by ``load_keras``; or, where there is no such file, the
            name of weights that come with the package, see ``fastresunet.pretrained``.

    Returns:
        The network, and the image size in pixels it was trained at (None if the checkpoint does not say).

    Raises:
        UserError: the file cannot be read, its parameters are not those of ResUNet++, or its dilation rates unknown.
    """
    if path.suffix == ".h5":
        return _load_keras(path), None
    if str(path) in pretrained.names() and not path.exists():
        return FastResUNetPP.from_pretrained(str(path)), pretrained.load_pretrained(str(path)).size
    checkpoint = read_checkpoint(path)
    state = _parameters(checkpoint, path)
    network = KerasResUNetPP if "same_padding" in state else FastResUNetPP
    try:
        model = network(**_network_arguments(state))
        _check_names(state, model.state_dict())
        model.load_state_dict(state)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} does not hold the parameters of ResUNet++: "
            f"{_reason(error)}. Use a checkpoint of this package or of the published PyTorch model, "
            "or a .h5 file of the TensorFlow model."
        ) from error
    settings = checkpoint.get("hyper_parameters")
    size = settings.get("size") if isinstance(settings, dict) else None
    return model.eval(), size if isinstance(size, int) else None


def _load_keras(path: Path) -> KerasResUNetPP:
    try:
        return load_keras(path)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        raise UserError(f"{error}.") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"there is no checkpoint {path}. Training writes best.ckpt and last.ckpt to its --out; "
            f"{', '.join(pretrained.names())} comes with the package."
        ) from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; give the checkpoint file, for example {path / 'best.ckpt'}.") from error
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror or error}.") from error


def _parameters(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    state = next((checkpoint[key] for key in STATE_KEYS if isinstance(checkpoint.get(key), dict)), checkpoint)
    if not state:
        raise UserError(f"checkpoint {path} holds an empty dictionary, expected the parameters of ResUNet++.")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"checkpoint {path} holds no parameters: expected a dictionary of tensors, bare or under "
            f"{', '.join(map(repr, STATE_KEYS))}; found the keys {', '.join(map(repr, list(state)[:5]))}."
        )
    while prefix := next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _network_arguments(state: dict[str, Tensor]) -> dict[str, Any]:
    branches = sum(re.fullmatch(r"b1\.c\d+\.0\.weight", name) is not None for name in state)
    if branches not in (0, ASPP_BRANCHES):
        raise ValueError(
            f"it has {branches} ASPP branches, whose dilation rates the file does not say; only the published "
            f"{ASPP_BRANCHES} are known (in Python, FastResUNetPP(aspp_rates=...).load_state_dict reads it)"
        )
    filters = [state[f"{name}.c2.0.weight"].shape[0] for name in ("c1", "c2", "c3", "c4")]
    hidden = [state[f"{name}.attn.net.0.weight"].shape[0] for name in ("c1", "c2", "c3", "c4")]
    # Several reductions may give the same layers; the published one is named where it does.
    candidates = (PUBLISHED_SE_REDUCTION, *range(1, min(filters) + 1))
    reduction = next((r for r in candidates if [width // r for width in filters] == hidden), None)
    if reduction is None:
        raise ValueError(f"squeeze-and-excitation layers of {hidden} channels do not fit blocks of {filters}")
    return {
        "in_channels": state["c1.c2.0.weight"].shape[1],
        "num_classes": state["output.weight"].shape[0],
        "filters": (*filters, state[f"b1.c{ASPP_BRANCHES + 1}.weight"].shape[0]),
        "se_reduction": reduction,
    }


def _check_names(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for kind, names in (("missing", expected.keys() - state.keys()), ("unexpected", state.keys() - expected.keys())):
        if names:
            listed = ", ".join(map(repr, sorted(names)[:NAMED_PARAMETERS]))
            more = f" and {len(names) - NAMED_PARAMETERS} more" if len(names) > NAMED_PARAMETERS else ""
            raise ValueError(f"{kind} parameter {listed}{more}")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"missing parameter {error}"
    lines = [line.strip().partition(". ")[0].rstrip(".") for line in str(error).splitlines()]
    # The first line of load_state_dict says only that something is wrong; the first sentence of a line says enough.
    return next((line for line in lines if line and not line.startswith("Error(s) in loading")), type(error).__name__)
