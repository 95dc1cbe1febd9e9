"""What a family of models consists of: its classes, and a reader of the folders that its makers published.

Everything that tells families apart is behind these two. Which families there are stands in `families.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from minimonkey.checkpoints.files import check_weights, weight_files
from minimonkey.checkpoints.rules import DROPPED, Rule, disk_name, to_native, to_published
from minimonkey.checkpoints.tensors import LazyTensor, opened
from minimonkey.models.minimonkey.backbone import MiniMonkeyModel
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.models.strict_loading import check_fit
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import MiniMonkeyProcessor


class PublishedFolder(ABC):
    """A folder as the makers of a model published it, translated on reading. Nothing is written, no code of it is run."""

    layout_name: ClassVar[str]
    """What error messages call the layout, such as "internvl_chat"."""
    wanted_files: ClassVar[tuple[str, ...]] = ()
    """Patterns of files that such a folder needs besides JSON, safetensors, Jinja, text and sentencepiece files."""
    arguments: ClassVar[tuple[str, ...]] = ()
    """What a caller may have to say because no file of such a folder does; it stands among the settings."""
    kept_files: ClassVar[tuple[str, ...]] = ("*.json", "tokenizer.model", "merges.txt", "vocab.json", "README.md", "LICENSE*")
    """Patterns of small files that a native folder keeps in `published/`, so that it can become a published folder again."""

    def __init__(self, path: Path, settings: Mapping[str, Any], name: str) -> None:
        """Remember a folder.

        Args:
            path: where it is.
            settings: what its config.json says, nothing if it has none, and what the caller says in `arguments`.
            name: the folder or hub id as it was asked for.
        """
        self.path, self.settings, self.name = path, settings, name

    @classmethod
    @abstractmethod
    def matches(cls, path: Path, settings: Mapping[str, Any] | None) -> bool:
        """Whether a folder is of this kind. `settings` are those of its config.json, None if there is none; files may tell too."""

    @classmethod
    def named_by(cls, file: Path) -> dict[str, Any] | None:
        """What it says if one file is named in place of its folder, as further settings; None if it says nothing."""
        return None

    @classmethod
    def lacks(cls, hub_id: str) -> str | None:
        """What else is needed, of a repository on the hub that doesn't have all of a folder; None for any other."""
        return None

    @abstractmethod
    def check_settings(self) -> None:
        """Raises CheckpointError for settings that no model can be made of. The weights may not be there yet."""

    @abstractmethod
    def config_fields(self) -> dict[str, Any]:
        """The fields of the family's native configuration, the pyramid among them."""

    @abstractmethod
    def stock_fields(self) -> dict[str, Any]:
        """The fields of transformers' InternVLConfig. Raises UsageError if that class can't compute this model."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, made once."""

    @abstractmethod
    def processor(self) -> MiniMonkeyProcessor:
        """Image processor, tokenizer and chat template in one."""

    @abstractmethod
    def finish_generation(self, settings: GenerationConfig) -> None:
        """Put what the published code generates by into what generation_config.json says: stop and padding token above all."""

    @property
    @abstractmethod
    def rules(self) -> Sequence[Rule]:
        """How the published tensors become native ones and back."""

    # -- weights; a family whose files are no safetensors says how they are read ------------------------------

    def check_weights(self) -> None:
        """Raises CheckpointError unless the weight files are there and whole; no tensor is read."""
        check_weights(self.path)

    @contextmanager
    def published_tensors(self) -> Iterator[dict[str, LazyTensor]]:
        """The weights by their published names; they can be read within the context."""
        with opened(weight_files(self.path)) as tensors:
            yield {name: tensor for name, tensor in tensors.items() if not DROPPED.fullmatch(name)}

    @contextmanager
    def tensors(self) -> Iterator[dict[str, LazyTensor]]:
        """The weights by their native names on disk; they can be read within the context. Call `check_tensors` first."""
        with self.published_tensors() as tensors:
            yield to_native(tensors, self.rules)

    def check_tensors(self, native: Mapping[str, tuple[int, ...]], tied: Iterable[str] = ()) -> None:
        """Compare the names and shapes in the weight files with what the configuration promises; no values are read.

        Args:
            native: shape of each tensor of the network, by its name in memory.
            tied: those that a folder may leave out.

        Raises:
            CheckpointError: tensors are missing, not expected, or of another shape; by their published names.
        """
        tied = set(tied)
        due, optional = (
            published_shapes({disk_name(n): native[n] for n in names}, self.rules) for names in (native.keys() - tied, tied)
        )
        with self.published_tensors() as tensors:
            found = {name: tensor.shape for name, tensor in tensors.items()}
        check_shapes(self.path, found, due, optional)


def published_shapes(native: Mapping[str, tuple[int, ...]], rules: Iterable[Rule]) -> dict[str, tuple[int, ...]]:
    """The published names and shapes of native tensors on disk."""
    tensors = {name: LazyTensor(shape, partial(torch.empty, shape, device="meta")) for name, shape in native.items()}
    return {name: tensor.shape for name, tensor in to_published(tensors, rules).items()}


def check_shapes(
    source: Any,
    found: Mapping[str, tuple[int, ...]],
    due: Mapping[str, tuple[int, ...]],
    optional: Iterable[str] = (),
) -> None:
    """Raises CheckpointError, from `source` on, unless the tensors found are those that are due, `optional` ones excepted."""
    check_fit(
        source,
        missing=due.keys() - found.keys(),
        unexpected=found.keys() - due.keys() - set(optional),
        misshapen=(f"{n} {list(found[n])} for {list(due[n])}" for n in due.keys() & found.keys() if found[n] != due[n]),
    )


@dataclass(frozen=True)
class Family:
    """The classes of one family. Those that a family doesn't need to differ in are Mini-Monkey's."""

    config: type[MiniMonkeyConfig]
    """Its `model_type` is the family's name."""
    backbone: type[MiniMonkeyModel]
    network: type[MiniMonkeyForConditionalGeneration]
    published: type[PublishedFolder]
    image_processor: type[MiniMonkeyImageProcessor] = MiniMonkeyImageProcessor
    processor: type[MiniMonkeyProcessor] = MiniMonkeyProcessor
    tokenizers: tuple[type[PreTrainedTokenizerBase], ...] = ()
    """Tokenizer classes of ours, which saved folders name."""
