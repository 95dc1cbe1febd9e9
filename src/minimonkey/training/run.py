"""A recipe runs: which kind it is, its folder, one process at a time in it.

runs/NAME/   recipe.json, log.jsonl, checkpoints, lock; of a tuning also tuned/, the model that comes of it
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from minimonkey.errors import MissingExtraError, UsageError
from minimonkey.recipe_file import build, read_recipe_file
from minimonkey.training.config import TuningRecipe

RUNS = Path("runs")


def run(recipe: Path, overrides: Sequence[str] = ()) -> Path:
    """Run a recipe of either kind to its end, going on where an earlier call stopped.

    Args:
        recipe: a YAML file; with `data` it tunes a model on people's rows, without it is one of the embedded model's curriculum.
        overrides: settings to change, such as `optimizer.rate=1e-5`.

    Returns:
        The folder of the tuned model, or of the last checkpoint.

    Raises:
        UsageError: the recipe is wrong, or another process trains in its folder.
    """
    raw = read_recipe_file(recipe, overrides)
    if "data" in raw:
        return run_tuning(build(TuningRecipe, raw, str(recipe)))
    from minimonkey.training.nano.run import train

    return train(recipe, list(overrides))


def run_tuning(recipe: TuningRecipe) -> Path:
    """Run a tuning recipe in its folder."""
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "training") from error
    from minimonkey.training.tune import tune

    folder = Path(recipe.out) if recipe.out is not None else RUNS / recipe.name
    if int(os.environ.get("RANK", "0")):  # the first process has the lock for all
        return tune(recipe, folder)
    with alone_in(folder):
        text = json.dumps(dataclasses.asdict(recipe), indent=1)
        (folder / "recipe.json").write_text(text, encoding="utf-8")
        return tune(recipe, folder)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder of a run if need be, and keeps other processes from training in it."""
    lock = FileLock(folder / "lock")  # the system's: freed when the process ends, however it ends
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{folder}: another process trains in it; wait for its end, or give this run another `name`") from error
    except OSError as error:
        raise UsageError(f"can't write {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
