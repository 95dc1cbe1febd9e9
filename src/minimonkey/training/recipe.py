"""Reading a recipe of the embedded model's curriculum. Keys of earlier versions are read by their former names, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minimonkey.errors import UsageError
from minimonkey.recipe_file import build, read_recipe_file, set_key
from minimonkey.training.nano.config import TrainConfig

FORMER_KEYS = {
    "looking_weight": "attention_losses.next_char",
    "anchor_weight": "attention_losses.this_char",
    "recall_weight": "attention_losses.query_word",
    "line_weight": "attention_losses.line_start",
    "place_weight": "attention_losses.place",
    "place_codes": "position_codes",
    "mistakes": "prefix_noise",
    "optimizer.scales": "optimizer.lr_multipliers",
}
"""Keys that recipes of earlier versions have, and what they are called now."""
FORMER_SOURCE_KEYS = {"leave_out": "exclude", "encoder_rests": "freeze_vision"}
"""The same for the keys of a source in `mixture`."""


def load_recipe(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Read a recipe and apply overrides.

    Args:
        path: a YAML file with keys of TrainConfig.
        overrides: such as `steps=200` or `optimizer.muon_lr=0.01`.

    Returns:
        The settings, each of them checked.

    Raises:
        UsageError: missing file, invalid YAML, unknown key (with the nearest name), wrong type or value.
    """
    raw = read_recipe_file(path, overrides)
    for former, key in FORMER_KEYS.items():
        _rename(raw, former, key, str(path))
    for source in raw["mixture"] if isinstance(raw.get("mixture"), list) else ():
        for former, key in FORMER_SOURCE_KEYS.items():
            _rename(source, former, key, str(path))
    return build(TrainConfig, raw, str(path))


def _rename(raw: Any, former: str, key: str, where: str) -> None:
    """Give a former key its present name, in place, if it is there. Raises UsageError for a key that has both."""
    *parents, name = former.split(".")
    holder = raw
    for parent in parents:
        holder = holder.get(parent) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or name not in holder:
        return
    *parents, new_name = key.split(".")
    known: Any = raw
    for parent in parents:
        known = known.get(parent, {}) if isinstance(known, dict) else {}
    if isinstance(known, dict) and new_name in known:
        raise UsageError(f"{where}: {former} is the former name of {key}, which is there too: leave {former} out")
    set_key(raw, key.split("."), holder.pop(name), f"{former}, now {key},")
