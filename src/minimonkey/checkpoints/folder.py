"""A model's folder: found on disk or fetched from the hub, and checked before anything is loaded from it.

Knows three layouts: "native" (ours), "stock" (internvl of transformers), whose tensors have the same names as Mini-Monkey's native
ones while their settings differ, and "published", where all is different. `families.py` tells whose a folder is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, StrictDataclassError
from transformers import InternVLConfig

from minimonkey.checkpoints.families import FAMILIES, Layout, told_apart
from minimonkey.checkpoints.family import Family, PublishedFolder
from minimonkey.checkpoints.files import ADAPTER, check_weights, first_line, read_json, refuse_adapter, weight_files
from minimonkey.checkpoints.tensors import LazyTensor, opened
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.models.minimonkey.configuration import FORMER_SETTINGS
from minimonkey.models.strict_loading import WHOLE

FIRST_FILES = ["config.json", ADAPTER]
"""What says whether a model is of a known kind: fetched and read before the weights."""
WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""What is read of any folder; a family's published folders may want more."""
OWN_SETTINGS = ("pyramid", *FORMER_SETTINGS)
"""Keys of a native config.json that the stock class doesn't know."""

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose config.json is of a known layout and whose weight files are whole."""

    path: Path
    settings: dict[str, Any]
    """What config.json says; empty for a published folder that has none."""
    name: str
    """The folder or hub id as it was asked for."""

    @cached_property
    def _kind(self) -> tuple[Family, Layout]:
        return told_apart(self.path, self.settings or None, self.name)

    @property
    def family(self) -> Family:
        return self._kind[0]

    @property
    def layout(self) -> Layout:
        return self._kind[1]

    @cached_property
    def published(self) -> PublishedFolder:
        """The reader of a published folder."""
        return self.family.published(self.path, self.settings, self.name)

    def config(self, layout: Literal["native", "stock"]) -> InternVLConfig:
        """The folder's settings as the configuration of a layout, whichever the folder has.

        Args:
            layout: "native" for the family's configuration, "stock" for InternVLConfig.

        Raises:
            CheckpointError: a wrong value; the message names the file.
            UsageError: transformers has no class for the family.
        """
        try:
            if self.layout == "published":
                settings = self.published.stock_fields() if layout == "stock" else self.published.config_fields()
            else:
                left_out = {"model_type", "architectures", *(OWN_SETTINGS if layout == "stock" else ())}
                settings = {name: value for name, value in self.settings.items() if name not in left_out}
            return (InternVLConfig if layout == "stock" else self.family.config).from_dict(settings)
        except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            if isinstance(error, (CheckpointError, UsageError)):
                raise
            raise CheckpointError(f"{self.path / 'config.json'}: {first_line(error)}") from error

    def check_settings(self) -> None:
        """Raises CheckpointError for settings that no model can be made of; looks at config.json alone."""
        if self.layout == "published":
            self.published.check_settings()
        else:
            self.config("native")

    def check_weights(self) -> None:
        """Raises CheckpointError unless the weight files are there and whole; no tensor is read."""
        if self.layout == "published":
            self.published.check_weights()
        else:
            check_weights(self.path)

    @contextmanager
    def tensors(self) -> Iterator[dict[str, LazyTensor]]:
        """The weights by their names in the -hf layout, whichever this folder has; they can be read within the context."""
        with self.published.tensors() if self.layout == "published" else opened(weight_files(self.path)) as tensors:
            yield tensors


def find_folder(
    model: str | Path, *, revision: str | None = None, token: str | bool | None = None, **arguments: Any
) -> ModelFolder:
    """The folder of a path or a hub id, fetched if need be: settings first, weights only if they are of a known kind.

    Args:
        model: a folder, or a hub id such as owner/name.
        revision: a branch, tag or commit of a hub id.
        token: of the hub, for private models; True for the one that `hf auth login` left.
        arguments: what no file of some published folders says (`PublishedFolder.arguments`); those that are None don't count.

    Returns:
        The folder, whose weight files are there and whole.

    Raises:
        CheckpointError: no such folder or id, offline, an adapter, config.json missing or of an unknown kind, weights missing, cut,
            pickled or there twice.
        UsageError: an argument that this folder doesn't need, or a revision of a folder.
    """
    arguments = {name: value for name, value in arguments.items() if value is not None}
    path = Path(model).expanduser()
    named = (family.published.named_by(path) for family in FAMILIES.values()) if path.is_file() else ()
    if (of_file := next((settings for settings in named if settings is not None), None)) is not None:
        path, arguments = path.parent, arguments | of_file
    elif path.is_file():
        raise CheckpointError(f"{model}: is a file; give the folder that holds config.json and model.safetensors")
    if not path.is_dir():
        for family in FAMILIES.values():
            if (lacking := family.published.lacks(str(model))) is not None:
                raise CheckpointError(f"{model}: {lacking}")
        first = _fetch(str(model), revision, token, FIRST_FILES)
        found = ModelFolder(first, _settings(first, str(model)), str(model))
        found.check_settings()
        more = found.family.published.wanted_files if found.layout == "published" else ()
        path = _fetch(str(model), revision, token, [*WANTED_FILES, *more])
    elif revision is not None:
        raise CheckpointError(f"revision={revision!r}: {model} is a folder; a revision goes with a hub id only")
    folder = ModelFolder(path, _settings(path, str(path)) | arguments, str(model))
    known = folder.family.published.arguments if folder.layout == "published" else ()
    for name, value in arguments.items():
        if name not in known:
            raise UsageError(f"{name}={value!r}: the files of {model} say that themselves; leave it out")
    folder.check_weights()
    return folder


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
    settings = read_json(file) if file.exists() else None
    if settings is None and not any(family.published.matches(path, None) for family in FAMILIES.values()):
        refuse_adapter(path, name)
        raise CheckpointError(f"{name}: no config.json in it; give the folder that holds config.json and {WHOLE}")
    told_apart(path, settings if isinstance(settings, dict | None) else {}, name)
    return settings or {}
