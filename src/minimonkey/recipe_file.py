"""A recipe file: YAML in, a frozen dataclass out, every key and type checked. Knows no recipe.

Each room has its own: a training (`training.recipe`), a mixture of data (`data.mixture_file`). An unknown key is an error that
names the nearest one.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from minimonkey.errors import MissingExtraError, UsageError, unknown


def read_recipe_file(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys and values of a YAML file, changed by overrides such as `steps=200` or `optimizer.muon_lr=0.01`.

    Raises:
        UsageError: missing file, invalid YAML, something else than `key: value` lines, an override without `=`.
        MissingExtraError: PyYAML isn't installed.
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
            set_key(raw, key.split("."), yaml.safe_load(value), override)
        except yaml.YAMLError as error:
            raise UsageError(f"override {override!r} is no valid YAML") from error
    return raw


def build(cls: Any, raw: Any, where: str) -> Any:
    """A (nested) dataclass from plain data; every key and type is checked.

    Args:
        cls: the dataclass.
        raw: what YAML or JSON gave for it.
        where: the file, and the keys above, as a message names them.

    Raises:
        UsageError: an unknown or missing key, or a value of another type.
    """
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
    if origin in (types.UnionType, typing.Union):  # the latter of a Literal
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (Ellipsis not in arguments and len(value) != len(arguments)):
            raise UsageError(f"{where}={value!r}: expected a list" + ("" if Ellipsis in arguments else f" of {len(arguments)}"))
        inner = [arguments[0]] * len(value) if Ellipsis in arguments else arguments
        return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if origin is dict and dataclasses.is_dataclass(arguments[1]) and isinstance(value, dict):
        return {key: build(arguments[1], each, f"{where}.{key}") for key, each in value.items()}
    if hint is float and not isinstance(value, (bool, float)):  # YAML takes 1e-3, without a point, for a string
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    expected = origin or hint
    if expected is not Any and (not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool)):
        raise UsageError(f"{where}={value!r}: expected {getattr(expected, '__name__', expected)}")
    return value


def set_key(raw: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    """Set a key of nested settings, in place. Raises UsageError, which names the override, if one on the way has no settings."""
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
