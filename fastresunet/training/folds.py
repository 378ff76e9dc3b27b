"""Cross-validation: several trainings, in each of which another part of the images validates."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from fastresunet.training.checkpoints import read_checkpoint
from fastresunet.training.console import say
from fastresunet.training.files import write_csv
from fastresunet.training.fit import train
from fastresunet.training.recipe import Machine, Recipe
from fastresunet.training.split import split_folds


class FoldsResult(NamedTuple):
    """Scores of a cross-validation.

    Attributes:
        scores: best monitored score of each fold.
        table: CSV file with a row a fold.
    """

    scores: list[float]
    table: Path

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        return fmean(self.scores)

    @property
    def deviation(self) -> float:
        """Standard deviation of the scores, as of a sample."""
        return stdev(self.scores)


def train_folds(
    data: Path,
    out: Path,
    folds: int,
    recipe: Recipe | None = None,
    machine: Machine | None = None,
    *,
    cache: Path | None = None,
    skip_damaged: bool = False,
    resume: bool = False,
) -> FoldsResult:
    """Train a network a fold, each in its own folder ``fold-1``, ``fold-2``, ... in ``out``.

    Args:
        data: folder with ``images`` and ``masks``; lists in it are not looked at.
        out: folder to write.
        folds: number of parts, at least 2; see ``split_folds``.
        recipe: see ``train``.
        machine: see ``train``.
        cache: see ``train``; all folds share it.
        skip_damaged: see ``train``.
        resume: go on where an interrupted cross-validation stopped: finished folds are left as they are.

    Returns:
        Best score of each fold, and where they are written.

    Raises:
        UserError: see ``train`` and ``split_folds``.
        TrainingInterruptedError: see ``train``.
    """
    recipe = recipe or Recipe()
    rows: list[dict[str, Any]] = []
    for number, names in enumerate(split_folds(data, folds, recipe.form), start=1):
        folder = out / f"fold-{number}"
        score = _finished_score(folder, recipe) if resume else None
        if score is None:
            say(f"Fold {number} of {folds}: {folder}")
            going_on = resume and (folder / "last.ckpt").exists()
            result = train(
                data,
                folder,
                recipe,
                machine,
                names=names,
                cache=cache,
                skip_damaged=skip_damaged,
                resume=going_on,
            )
            score = result.best_score
        rows.append({"fold": number, "train": len(names.train), "val": len(names.val), recipe.monitor: f"{score:.6f}"})
        write_csv(out / "folds.csv", [*rows[0]], [[*row.values()] for row in rows])
    return FoldsResult([float(row[recipe.monitor]) for row in rows], out / "folds.csv")


def _finished_score(folder: Path, recipe: Recipe) -> float | None:
    """Return the best score of a fold that has seen all its epochs."""
    last = folder / "last.ckpt"
    if not last.exists():
        return None
    checkpoint = read_checkpoint(last)
    if checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] < recipe.epochs:
        return None
    scores = [state["best_model_score"] for key, state in checkpoint["callbacks"].items() if "BestCheckpoint" in key]
    return float(scores[0])
