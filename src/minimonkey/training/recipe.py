"""Reading a training recipe: one YAML file, `key=value` overrides on the command line."""

from __future__ import annotations

from pathlib import Path

from minimonkey.recipe_file import build, read_recipe_file
from minimonkey.training.nano.config import TrainConfig


def load_recipe(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Read a YAML recipe and apply overrides such as `steps=200` or `optimizer.muon_lr=0.01`.

    Raises UsageError: missing file, invalid YAML, unknown key (with the nearest name), wrong type.
    """
    return build(TrainConfig, read_recipe_file(path, overrides), str(path))
