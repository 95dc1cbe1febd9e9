"""`minimonkey train`: run a training recipe. What a recipe may say is the business of minimonkey.training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as those under recipes/train.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, with dots: optimizer.rate=1e-3")
    ] = None,
) -> None:
    """Train a model by a recipe, or go on where a stopped run was.

    Checkpoints and the log go where the recipe says; running the same command again resumes.

    \b
    Example:
      minimonkey train recipes/train/nano-lines.yaml seed=1
    """
    from minimonkey.training.run import train as run

    run(recipe, list(overrides or []))
