"""A folder in InternVL's published layout: InternVL 1.5 to 3, Mini-InternVL and Mini-Monkey, model_type `internvl_chat`.

Puts together what `published.py` knows of settings, `rules.py` of tensors and `tokenizers.py` of tokens.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from minimonkey.checkpoints.family import PublishedFolder
from minimonkey.checkpoints.published import MODEL_TYPE, STOP, PublishedSettings, chat_template
from minimonkey.checkpoints.rules import Rule
from minimonkey.errors import CheckpointError, PyramidError
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec


class InternVLChatFolder(PublishedFolder):
    """What `InternVLChatModel` and `MiniMonkeyChatModel` load."""

    layout_name = MODEL_TYPE

    @classmethod
    def matches(cls, path: Path, settings: Mapping[str, Any] | None) -> bool:
        return settings is not None and settings.get("model_type") == MODEL_TYPE

    @cached_property
    def meaning(self) -> PublishedSettings:
        """What config.json means."""
        return PublishedSettings(self.settings, str(self.path / "config.json"))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from minimonkey.checkpoints.tokenizers import published_tokenizer  # sentencepiece is for these folders alone

        return published_tokenizer(self.path, dict(self.settings))

    @cached_property
    def pyramid(self) -> PyramidSpec:
        """How the published code cuts pictures. Mini-Monkey is known by its class or, with a warning, by its name."""
        named = any("minimonkey" in re.sub("[^a-z0-9]", "", name) for name in self._names)
        if named and not self.meaning.is_mini_monkey:
            warnings.warn(
                f"{self.name}: pictures are cut as for Mini-Monkey because of this name alone, its config.json doesn't say "
                "MiniMonkeyChatModel; if it is another model, rename the folder",
                stacklevel=2,
            )
        try:
            return self.meaning.pyramid(mini_monkey=named)
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

    def check_settings(self) -> None:
        _ = self.meaning

    def config_fields(self) -> dict[str, Any]:
        return self.stock_fields() | {"pyramid": dataclasses.asdict(self.pyramid)}

    def stock_fields(self) -> dict[str, Any]:
        return self.meaning.native(self.tokenizer.context_image_token_id)

    def processor(self) -> MiniMonkeyProcessor:
        return MiniMonkeyProcessor(
            MiniMonkeyImageProcessor(pyramid=self.pyramid),
            self.tokenizer,
            chat_template=chat_template(self.meaning.template),
            image_seq_length=self.meaning.tokens_per_tile,
        )

    def finish_generation(self, settings: GenerationConfig) -> None:
        """The one token that ends an answer in the template, as the published `chat` has it, which doesn't read the file."""
        template = self.meaning.template
        if STOP[template] not in self.tokenizer.get_vocab():
            raise CheckpointError(
                f"{self.path / 'config.json'}: template is {template!r}, whose {STOP[template]} isn't a token of this folder"
            )
        settings.eos_token_id = self.tokenizer.convert_tokens_to_ids(STOP[template])
        settings.pad_token_id = self.tokenizer.pad_token_id

    @property
    def rules(self) -> Sequence[Rule]:
        return self.meaning.rules
