"""The recipe of a training from a file and from options, of which the options win."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from fastresunet.training.checkpoints import read_checkpoint
from fastresunet.training.recipe import Recipe
from fastresunet.training.run import read_run, recorded_run
from fastresunet.training.split import Names


class Configuration(NamedTuple):
    """What to train with.

    Attributes:
        recipe: what shapes the result.
        names: of the images; None splits the folder anew.
    """

    recipe: Recipe
    names: Names | None


def configure(options: Mapping[str, Any], config: Path | None = None, resumed: Path | None = None) -> Configuration:
    """Return what to train with.

    Args:
        options: by name, among them fields of the recipe; those that are missing were not given.
        config: a ``run.yaml``.
        resumed: folder of a training to continue, whose recipe is the default.

    Raises:
        UserError: the file cannot be read or is wrong, or an option is out of range.
    """
    recipe, names = Recipe(), None
    if config is not None:
        run = read_run(config)
        recipe, names = run.recipe, run.names if run.names.train else None
    elif resumed is not None and (resumed / "last.ckpt").exists():
        last = resumed / "last.ckpt"
        earlier = recorded_run(read_checkpoint(last), last)
        recipe = recipe if earlier is None else earlier.recipe
    given = {field.name: options[field.name] for field in fields(Recipe) if field.name in options}
    # Two ways to say what masks mean: the one that is given replaces the other.
    if "classes" in given or "foreground" in given:
        given = {"classes": (), "foreground": (), **given}
    return Configuration(Recipe.from_values({**recipe.to_values(), **given}, "options"), names)
