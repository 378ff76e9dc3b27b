"""Read and write checkpoints: those of this package and those of the published model."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from fastresunet.model import FastResUNetPP
from fastresunet.training.errors import UserError
from fastresunet.training.files import write_atomically

# Prefixes that Lightning, DataParallel and torch.compile put before the parameter names.
WRAPPER_PREFIXES = ("model.", "module.", "_orig_mod.")
# Keys under which training scripts nest the parameters.
STATE_KEYS = ("state_dict", "model_state_dict", "model")
PUBLISHED_SE_REDUCTION = 8
ASPP_BRANCHES = 4


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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"there is no checkpoint {path}. Training writes best.ckpt and last.ckpt to its --out."
        ) from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} is damaged, or holds Python objects that could run code and are not loaded. "
            "Use another copy, or save torch.save(model.state_dict(), FILE) where it was made."
        ) from error
    # Damaged bytes can make the reader raise anything.
    except Exception as error:
        raise UserError(
            f"checkpoint {path} cannot be read; it is truncated or no PyTorch checkpoint "
            f"({_reason(error)}). "
            "Use another copy, for example last.ckpt or best.ckpt of the same training."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, expected a dictionary of parameters.")
    return content


def load_model(path: Path) -> tuple[FastResUNetPP, int | None]:
    """Build the network of a checkpoint, in evaluation mode on the CPU.

    Checkpoints of this package, bare ``state_dict`` files and files of the published model load alike: the numbers of
    channels follow from the shapes of the parameters.

    Args:
        path: checkpoint file.

    Returns:
        The network, and the image size in pixels it was trained at (None if the checkpoint does not say).

    Raises:
        UserError: the file cannot be read, or its parameters are not those of ResUNet++.
    """
    checkpoint = read_checkpoint(path)
    state = _parameters(checkpoint, path)
    try:
        model = FastResUNetPP(**_network_arguments(state))
        model.load_state_dict(state)
    except (KeyError, IndexError, StopIteration, RuntimeError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} does not hold the parameters of ResUNet++ "
            f"({_reason(error)}). Use a checkpoint of this package or of the published PyTorch model."
        ) from error
    size = checkpoint.get("hyper_parameters", {}).get("size")
    return model.eval(), size


def _parameters(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    state = next((checkpoint[key] for key in STATE_KEYS if isinstance(checkpoint.get(key), dict)), checkpoint)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"checkpoint {path} holds no parameters: expected a dictionary of tensors, bare or under "
            f"{', '.join(map(repr, STATE_KEYS))}; found the keys {', '.join(map(repr, list(state)[:5]))}."
        )
    while prefix := next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _network_arguments(state: dict[str, Tensor]) -> dict[str, Any]:
    filters = [state[f"{name}.c2.0.weight"].shape[0] for name in ("c1", "c2", "c3", "c4")]
    hidden = [state[f"{name}.attn.net.0.weight"].shape[0] for name in ("c1", "c2", "c3", "c4")]
    # Several reductions may give the same layers; the published one is named where it does.
    candidates = (PUBLISHED_SE_REDUCTION, *range(1, min(filters) + 1))
    reduction = next(r for r in candidates if [width // r for width in filters] == hidden)
    return {
        "in_channels": state["c1.c2.0.weight"].shape[1],
        "num_classes": state["output.weight"].shape[0],
        "filters": (*filters, state[f"b1.c{ASPP_BRANCHES + 1}.weight"].shape[0]),
        "se_reduction": reduction,
    }


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
