"""The record of a training: ``run.yaml`` in its folder, and the same in its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from fastresunet.training.checkpoints import read_checkpoint
from fastresunet.training.errors import UserError
from fastresunet.training.files import write_atomically
from fastresunet.training.info import revision, versions
from fastresunet.training.recipe import Recipe
from fastresunet.training.split import Names


@dataclass(frozen=True)
class Run:
    """What is known of a training.

    Args:
        recipe: what shaped its result.
        names: of its training and validation images.
        made_with: data folder, time, device, versions, revision of the source, for those who read it.
    """

    recipe: Recipe
    names: Names
    made_with: Mapping[str, Any]

    def to_values(self) -> dict[str, Any]:
        """Return plain values, such as YAML holds."""
        return {
            "recipe": self.recipe.to_values(),
            "made_with": dict(self.made_with),
            "train": list(self.names.train),
            "val": list(self.names.val),
        }

    def to_hyper_parameters(self) -> dict[str, Any]:
        """Return what a checkpoint keeps under ``hyper_parameters``: the recipe's fields, and the names."""
        return {**self.recipe.to_values(), "train": list(self.names.train), "val": list(self.names.val)}

    def write(self, path: Path) -> None:
        """Write the record as YAML, completely or not at all.

        Args:
            path: file to write.

        Raises:
            UserError: the file cannot be written.
        """
        heading = "# A training of fastresunet; fastresunet train --config FILE trains again like this.\n"
        text = yaml.safe_dump(self.to_values(), sort_keys=False, allow_unicode=True, width=120)
        write_atomically(path, (heading + text).encode())


def made_now(data: Path, device: str) -> dict[str, Any]:
    """Return where, when and with what a training is made.

    Args:
        data: data folder.
        device: kind of device, ``"cpu"`` or ``"cuda"``.
    """
    return {
        "data": str(data),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": versions(),
        "revision": revision(Path(__file__).parents[2]),
    }


def read_run(path: Path) -> Run:
    """Read a ``run.yaml``, or a file with a recipe alone.

    Args:
        path: YAML file with ``recipe``, and where the images are to be the same, ``train`` and ``val``.

    Returns:
        The record; its names are empty where the file has none.

    Raises:
        UserError: the file cannot be read, is no YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}. A training writes run.yaml to its --out.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        raise UserError(f"{path} holds no recipe; expected a mapping with the key 'recipe', as in run.yaml.")
    lists = [content.get(part) or [] for part in Names._fields]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise UserError(f"{path}: expected lists of names, as text, under 'train' and 'val'.")
    if bool(lists[0]) != bool(lists[1]):
        raise UserError(f"{path} has names under one of 'train' and 'val'; give both, or none.")
    recipe = Recipe.from_values(content["recipe"], str(path))
    return Run(recipe, Names(*map(tuple, lists)), content.get("made_with") or {})


def recorded_run(checkpoint: Mapping[str, Any], path: Path) -> Run | None:
    """Return the record in a checkpoint; None if there is none.

    Args:
        checkpoint: content of the file.
        path: of the file, for errors.

    Raises:
        UserError: the record is of another version of this package.
    """
    values = checkpoint.get("hyper_parameters")
    if not isinstance(values, dict) or not {"train", "val"} <= values.keys():
        return None
    recipe = {name: value for name, value in values.items() if name not in Names._fields}
    return Run(Recipe.from_values(recipe, str(path)), Names(tuple(values["train"]), tuple(values["val"])), {})


def names_in(path: Path) -> Names | None:
    """Return the split that a checkpoint was trained with; None where the file does not say.

    Args:
        path: of the checkpoint, or a name of weights that come with the package.

    Raises:
        UserError: see ``read_checkpoint`` and ``recorded_run``.
    """
    if path.suffix != ".ckpt":
        return None
    run = recorded_run(read_checkpoint(path), path)
    return None if run is None else run.names
