"""A model's folder: found on disk or fetched from the hub, and checked before anything is loaded from it.

Knows the two layouts, "native" (model_type minimonkey) and "stock" (internvl of transformers): their tensors have the same names,
their settings differ. Everything read here was written by others: settings are JSON, weights safetensors, code is never run.
"""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from transformers import InternVLConfig

from minimonkey import register
from minimonkey.configuration import MiniMonkeyConfig
from minimonkey.errors import CheckpointError, PyramidError
from minimonkey.processing import MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec

Layout = Literal["native", "stock"]
CONFIGS: dict[Layout, type[InternVLConfig]] = {"native": MiniMonkeyConfig, "stock": InternVLConfig}

WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
OWN_SETTINGS = ("pyramid", "compression")
"""Keys of a native config.json that the stock class doesn't know."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose config.json is of a known layout and whose weight files are whole."""

    path: Path
    settings: dict[str, Any]
    """What config.json says."""

    @property
    def layout(self) -> Layout:
        return next(layout for layout, config in CONFIGS.items() if config.model_type == self.settings["model_type"])

    def config(self, layout: Layout) -> InternVLConfig:
        """The settings as the configuration of a layout, whichever this folder has. Raises CheckpointError for a wrong value."""
        left_out = {"model_type", "architectures", *(OWN_SETTINGS if layout == "stock" else ())}
        settings = {name: value for name, value in self.settings.items() if name not in left_out}
        try:
            return CONFIGS[layout].from_dict(settings)
        except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.path / 'config.json'}: {_line(error)}") from error


def find_folder(model: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> ModelFolder:
    """The folder of a path or a hub id, fetched if need be.

    Raises CheckpointError: no such folder or id, offline, config.json missing or of an unknown kind, weights missing, cut, pickled.
    """
    path = Path(model).expanduser()
    if path.is_file():
        raise CheckpointError(f"{model}: is a file; give the folder that holds config.json and model.safetensors")
    if not path.is_dir():
        path = _fetch(str(model), revision, token)
    elif revision is not None:
        raise CheckpointError(f"revision={revision!r}: {model} is a folder; a revision goes with a hub id only")
    settings = _settings(path)
    _check_weights(path)
    return ModelFolder(path, settings)


def _fetch(model: str, revision: str | None, token: str | bool | None) -> Path:
    if not _HUB_ID.fullmatch(model):
        raise CheckpointError(f"{model}: no such folder; give a model folder or a hub id such as owner/name")
    try:
        return Path(snapshot_download(model, revision=revision, token=token, allow_patterns=WANTED_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{model}: no folder of this name here, and the hub gave none ({type(error).__name__}: {_line(error)}); "
            "check the name, the network and, for a private model, the token"
        ) from error


def _settings(path: Path) -> dict[str, Any]:
    """What config.json says, if it is of a kind that we know."""
    file = path / "config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no config.json in it; give the folder that holds config.json and model.safetensors"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: is not readable JSON ({error}); get the folder anew") from error
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    known = [config.model_type for config in CONFIGS.values()]
    if kind not in known:
        raise CheckpointError(f"{file}: model_type is {kind!r}; expected one of {', '.join(known)}")
    return settings


def _check_weights(path: Path) -> None:
    """Every weight file is there, is safetensors and is as long as its header says."""
    for file in _weight_files(path):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except FileNotFoundError:
            raise CheckpointError(f"{file}: missing; get the folder anew") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: broken or cut short ({error}); get the folder anew") from error


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
        if pickled and not (path / "model.safetensors").is_file():
            raise CheckpointError(f"{path}: weights only as {pickled[0]}; only safetensors are read, save the model as safetensors")
        return [path / "model.safetensors"]
    try:
        shards = set(_json(index)["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: is not a readable index of weight files; get the folder anew") from error
    if any(not isinstance(shard, str) or Path(shard).name != shard for shard in shards):
        raise CheckpointError(f"{index}: names weight files outside the folder; get the folder anew")
    return [path / shard for shard in sorted(shards)]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: is not readable JSON ({error}); get the folder anew") from error


def _line(error: Exception) -> str:
    """The beginning of an error's message, on one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."


def load_processor(folder: ModelFolder, config: InternVLConfig) -> MiniMonkeyProcessor:
    """The processor of a folder of either layout, fitting the model of that configuration.

    Raises CheckpointError if files are missing or broken, or if tile, tokens a tile or token ids aren't the model's. Warns of each
    setting of the pyramid that differs from what the model was trained with.
    """
    register()  # its parts are found by name
    for file in folder.path.glob("*.json"):
        _json(file)
    try:
        processor = MiniMonkeyProcessor.from_pretrained(folder.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder.path}: no usable processor in it ({_line(error)}); get the folder anew") from error
    vision, spec = config.vision_config, processor.image_processor.spec
    try:
        processor.prompt("?", pictures=1)
    except (TemplateError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder.path}: its chat template can't be used ({_line(error)}); get the folder anew") from error
    if min(vision.patch_size) < 1:
        raise CheckpointError(f"{folder.path / 'config.json'}: vision_config.patch_size is {vision.patch_size}; expected 1 or more")
    patches = (vision.image_size[0] // vision.patch_size[0]) * config.downsample_ratio
    due = {
        "tile_px": (spec.tile_px, vision.image_size[0]),
        "image_seq_length": (processor.image_seq_length, int(patches) ** 2),
        "image token": (processor.image_token_id, config.image_token_id),
    }
    for name, (ours, theirs) in due.items():
        if ours != theirs:
            raise CheckpointError(
                f"{folder.path}: the processor's {name} is {ours}, the model's {theirs}; correct the processor's files"
            )
    if len(processor.tokenizer) > config.text_config.vocab_size:
        raise CheckpointError(
            f"{folder.path}: the tokenizer knows {len(processor.tokenizer)} tokens, the model {config.text_config.vocab_size}"
        )
    try:
        trained = spec if config.pyramid is None else PyramidSpec.from_dict(config.pyramid)
    except PyramidError as error:
        raise CheckpointError(f"{folder.path / 'config.json'}: {error}") from error
    for field in dataclasses.fields(PyramidSpec):
        ours, theirs = getattr(spec, field.name), getattr(trained, field.name)
        if ours != theirs:
            warnings.warn(
                f"{folder.path}: pictures are cut with {field.name}={ours}, the model was trained with {theirs}", stacklevel=3
            )
    return processor
