"""`minimonkey train`: run a training recipe. What a recipe may say is the business of minimonkey.training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as those under recipes/train.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, with dots: optimizer.adamw_lr=1e-3")
    ] = None,
) -> None:
    """Train a model by a recipe, or go on where a stopped run was.

    Checkpoints and the log go to runs/NAME, after the recipe's name. Ctrl-C leaves a checkpoint; the same command again goes on
    from the last one.

    \b
    Example:
      minimonkey train recipes/train/nano-1-characters.yaml workers=4 optimizer.adamw_lr=1e-3
    """
    from transformers.utils.logging import disable_progress_bar

    from minimonkey.training.nano.run import train as run

    disable_progress_bar()  # each checkpoint would draw one into ours
    print(f"wrote {run(recipe, list(overrides or []))}")
