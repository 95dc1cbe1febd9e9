"""Reading a recipe: one YAML file, `key=value` overrides on the command line.

An unknown key is an error that names the nearest one. Keys of earlier versions are read by their former names, too.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal

from minimonkey.errors import MissingExtraError, UsageError, unknown
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
    yaml = _yaml()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe {path} is no text in UTF-8") from error
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"recipe {path}: expected `key: value` lines, got {type(raw).__name__}")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UsageError(f"override {override!r}: expected key=value, e.g. steps=200")
        try:
            _set(raw, key.split("."), yaml.safe_load(value), override)
        except yaml.YAMLError as error:
            raise UsageError(f"override {override!r} is no valid YAML") from error
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
    _set(raw, key.split("."), holder.pop(name), f"{former}, now {key},")


def build(cls: Any, raw: Any, where: str) -> Any:
    """A (nested) dataclass from plain data; every key and type is checked."""
    if not isinstance(raw, dict):
        raise UsageError(f"{where}: expected `key: value` lines for {cls.__name__}, got {raw!r}")
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in hints:
            raise UsageError(unknown(f"{where}: unknown key", key, hints))
    required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - raw.keys())
    if missing:
        raise UsageError(f"{where}: missing key {missing[0]!r}")
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in raw.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{where}={value!r}: expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (Ellipsis not in arguments and len(value) != len(arguments)):
            raise UsageError(f"{where}={value!r}: expected a list" + ("" if Ellipsis in arguments else f" of {len(arguments)}"))
        inner = [arguments[0]] * len(value) if Ellipsis in arguments else arguments
        return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if hint is float and not isinstance(value, (bool, float)):  # YAML takes 1e-3, without a point, for a string
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    expected = origin or hint
    if expected is not Any and (not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool)):
        raise UsageError(f"{where}={value!r}: expected {getattr(expected, '__name__', expected)}")
    return value


def _set(raw: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise UsageError(f"override {override!r}: {key!r} has no settings of its own")
    raw[keys[-1]] = value


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("PyYAML", "train", "reading a recipe") from error
    return yaml
