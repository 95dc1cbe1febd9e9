"""Files of a model folder: read, and checked to be there and whole, before anything is made of them.

Everything read here was written by others: settings are JSON, weights safetensors. Knows no family of models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from minimonkey.errors import CheckpointError, MiniMonkeyError
from minimonkey.models.strict_loading import INDEX, WHOLE, check_one_set

ADAPTER = "adapter_config.json"
"""The settings of an adapter, which is no model without its base."""


def read_json(file: Path) -> Any:
    """The content of a JSON file. Raises CheckpointError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: is not readable JSON ({error}); get the folder anew") from error


def first_line(error: Exception) -> str:
    """An error's class, unless it is ours, and the beginning of its message, on one line."""
    name = "" if isinstance(error, MiniMonkeyError) else f"{type(error).__name__}: "
    text = " ".join(f"{name}{error}".split())
    return text if len(text) <= 160 else f"{text[:160]}..."


def refuse_adapter(path: Path, name: str) -> None:
    """Raises CheckpointError, naming the base model, for a folder that peft saved an adapter in."""
    if (path / ADAPTER).is_file():
        settings = read_json(path / ADAPTER)
        base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
        whose = f" of {base!r}" if base else ""
        raise CheckpointError(
            f"{name}: an adapter{whose}; merge it into its base model (merge_and_unload of peft), save that, and give its folder"
        )


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, which need not exist.

    Raises CheckpointError for pickled weights, a broken index, or an index beside weights in one file.
    """
    check_one_set(path)
    index = path / INDEX
    if not index.is_file():
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
        if pickled and not (path / WHOLE).is_file():
            raise CheckpointError(f"{path}: weights only as {pickled[0]}; only safetensors are read, save the model as safetensors")
        return [path / WHOLE]
    try:
        shards = set(read_json(index)["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: is not a readable index of weight files; get the folder anew") from error
    if any(not isinstance(shard, str) or Path(shard).name != shard for shard in shards):
        raise CheckpointError(f"{index}: names weight files outside the folder; get the folder anew")
    return [path / shard for shard in sorted(shards)]


def check_weights(path: Path) -> None:
    """Raises CheckpointError unless every weight file of a folder is there, is safetensors and is as long as its header says."""
    for file in weight_files(path):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except FileNotFoundError:
            refuse_adapter(path, str(path))
            raise CheckpointError(f"{file}: missing; get the folder anew") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: broken or cut short ({error}); get the folder anew") from error
