"""A model's folder: found on disk or fetched from the hub, and checked before anything is loaded from it.

Knows three layouts: "native" (model_type minimonkey) and "stock" (internvl of transformers), whose tensors have the same names
while their settings differ, and "published" (internvl_chat), where all is different. Everything read here was written by others:
settings are JSON, weights safetensors, code is never run.
"""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import InternVLConfig, PreTrainedTokenizerBase

from minimonkey.checkpoints.published import MODEL_TYPE, PublishedSettings
from minimonkey.checkpoints.rules import to_native
from minimonkey.checkpoints.tensors import LazyTensor, opened
from minimonkey.errors import CheckpointError, MiniMonkeyError, PyramidError
from minimonkey.models.minimonkey.configuration import FORMER_SETTINGS, MiniMonkeyConfig
from minimonkey.models.strict_loading import INDEX, WHOLE, check_one_set
from minimonkey.pyramid import PyramidSpec

Layout = Literal["native", "stock", "published"]
CONFIGS: dict[str, type[InternVLConfig]] = {"native": MiniMonkeyConfig, "stock": InternVLConfig}

ADAPTER = "adapter_config.json"
"""The settings of an adapter, which is no model without its base."""
FIRST_FILES = ["config.json", ADAPTER]
"""What says whether a model is of a known kind: fetched and read before the weights."""
WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
OWN_SETTINGS = ("pyramid", *FORMER_SETTINGS)
"""Keys of a native config.json that the stock class doesn't know."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose config.json is of a known layout and whose weight files are whole."""

    path: Path
    settings: dict[str, Any]
    """What config.json says."""
    name: str
    """The folder or hub id as it was asked for."""

    @property
    def layout(self) -> Layout:
        kind = self.settings["model_type"]
        return "published" if kind == MODEL_TYPE else "native" if kind == MiniMonkeyConfig.model_type else "stock"

    @cached_property
    def published(self) -> PublishedSettings:
        """The settings of a published folder."""
        return PublishedSettings(self.settings, str(self.path / "config.json"))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of a published folder."""
        from minimonkey.checkpoints.tokenizers import published_tokenizer  # sentencepiece is for these folders alone

        return published_tokenizer(self.path, self.settings)

    @cached_property
    def pyramid(self) -> PyramidSpec:
        """How the code of a published folder cuts pictures. Mini-Monkey is known by its class or, with a warning, by its name."""
        named = any("minimonkey" in re.sub("[^a-z0-9]", "", name) for name in self._names)
        if named and not self.published.is_mini_monkey:
            warnings.warn(
                f"{self.name}: pictures are cut as for Mini-Monkey because of this name alone, its config.json doesn't say "
                "MiniMonkeyChatModel; if it is another model, rename the folder",
                stacklevel=2,
            )
        try:
            return self.published.pyramid(mini_monkey=named)
        except PyramidError as error:
            raise CheckpointError(f"{self.path / 'config.json'}: {error}") from error

    @property
    def _names(self) -> list[str]:
        """What the model is called in lower case: as it was asked for, its folder, its repository in the hub's cache.

        The folders around it don't count: a model in ~/minimonkey/ is not Mini-Monkey for that.
        """
        place = self.path.resolve()
        cached = [place.parent.parent.name] if place.parent.name == "snapshots" else []
        return [name.rpartition("--")[2].lower() for name in (Path(self.name).name, self.path.name, place.name, *cached)]

    def config(self, layout: Literal["native", "stock"]) -> InternVLConfig:
        """The folder's settings as the configuration of a layout, whichever the folder has.

        Args:
            layout: "native" for MiniMonkeyConfig, "stock" for InternVLConfig.

        Raises:
            CheckpointError: a wrong value; the message names the file.
        """
        try:
            if self.layout == "published":
                settings = self.published.native(self.tokenizer.context_image_token_id)
                settings |= {} if layout == "stock" else {"pyramid": dataclasses.asdict(self.pyramid)}
            else:
                left_out = {"model_type", "architectures", *(OWN_SETTINGS if layout == "stock" else ())}
                settings = {name: value for name, value in self.settings.items() if name not in left_out}
            return CONFIGS[layout].from_dict(settings)
        except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{self.path / 'config.json'}: {first_line(error)}") from error

    def check_settings(self) -> None:
        """Raises CheckpointError for settings that no model can be made of; looks at config.json alone."""
        if self.layout == "published":
            _ = self.published
        else:
            self.config("native")

    @contextmanager
    def tensors(self) -> Iterator[dict[str, LazyTensor]]:
        """The weights by their names in the -hf layout, whichever this folder has; they can be read within the context."""
        with opened(weight_files(self.path)) as tensors:
            yield to_native(tensors, self.published.rules) if self.layout == "published" else tensors


def find_folder(model: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> ModelFolder:
    """The folder of a path or a hub id, fetched if need be: settings first, weights only if they are of a known kind.

    Args:
        model: a folder, or a hub id such as owner/name.
        revision: a branch, tag or commit of a hub id.
        token: of the hub, for private models; True for the one that `hf auth login` left.

    Returns:
        The folder, whose weight files are there and whole.

    Raises:
        CheckpointError: no such folder or id, offline, an adapter, config.json missing or of an unknown kind, weights missing, cut,
            pickled or there twice.
    """
    path = Path(model).expanduser()
    if path.is_file():
        raise CheckpointError(f"{model}: is a file; give the folder that holds config.json and model.safetensors")
    if not path.is_dir():
        first = _fetch(str(model), revision, token, FIRST_FILES)
        ModelFolder(first, _settings(first, str(model)), str(model)).check_settings()
        path = _fetch(str(model), revision, token, WANTED_FILES)
    elif revision is not None:
        raise CheckpointError(f"revision={revision!r}: {model} is a folder; a revision goes with a hub id only")
    settings = _settings(path, str(path))
    _check_weights(path)
    return ModelFolder(path, settings, str(model))


def _fetch(model: str, revision: str | None, token: str | bool | None, files: list[str]) -> Path:
    """The folder in the hub's cache, with those of these files (patterns of names) that the hub has."""
    if not _HUB_ID.fullmatch(model):
        raise CheckpointError(f"{model}: no such folder; give a model folder or a hub id such as owner/name")
    try:
        return Path(snapshot_download(model, revision=revision, token=token, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        if isinstance(error, GatedRepoError):
            advice = f"accept its licence at https://huggingface.co/{model}, then log in (hf auth login) or pass a token"
        elif isinstance(error, HfHubHTTPError):
            advice = "check the name and the revision and, for a private model, the token"
        else:
            advice = "check the name and the network; without one (HF_HUB_OFFLINE), only models fetched before can be used"
        raise CheckpointError(
            f"{model}: no folder of this name here, and the hub gave none ({first_line(error)}); {advice}"
        ) from error


def _settings(path: Path, name: str) -> dict[str, Any]:
    """What config.json says, if it is of a kind that we know. Errors call the folder by its name."""
    file = path / "config.json"
    if not file.exists():
        _refuse_adapter(path, name)
        raise CheckpointError(f"{name}: no config.json in it; give the folder that holds config.json and {WHOLE}")
    settings = read_json(file)
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    known = [*(config.model_type for config in CONFIGS.values()), MODEL_TYPE]
    if kind not in known:
        raise CheckpointError(f"{name}/config.json: model_type is {kind!r}; expected one of {', '.join(known)}")
    return settings


def _refuse_adapter(path: Path, name: str) -> None:
    """Raises CheckpointError, naming the base model, for a folder that peft saved an adapter in."""
    if (path / ADAPTER).is_file():
        settings = read_json(path / ADAPTER)
        base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
        whose = f" of {base!r}" if base else ""
        raise CheckpointError(
            f"{name}: an adapter{whose}; merge it into its base model (merge_and_unload of peft), save that, and give its folder"
        )


def _check_weights(path: Path) -> None:
    """Every weight file is there, is safetensors and is as long as its header says."""
    for file in weight_files(path):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except FileNotFoundError:
            _refuse_adapter(path, str(path))
            raise CheckpointError(f"{file}: missing; get the folder anew") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: broken or cut short ({error}); get the folder anew") from error


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
