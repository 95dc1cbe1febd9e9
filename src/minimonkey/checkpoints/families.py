"""The families of models, all in one dict, and what transformers' Auto classes are told of them.

`load`, `convert` and `inspect` find a folder's family here; nothing above this file asks which model it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    InternVLConfig,
)

from minimonkey.checkpoints.family import Family
from minimonkey.checkpoints.internvl import InternVLChatFolder
from minimonkey.checkpoints.monkey import MonkeyFolder
from minimonkey.checkpoints.tinygptv import TinyGPTVFolder
from minimonkey.errors import CheckpointError
from minimonkey.models.minimonkey.backbone import MiniMonkeyModel
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.models.monkey.configuration import MonkeyConfig
from minimonkey.models.monkey.modeling import MonkeyForConditionalGeneration, MonkeyModel
from minimonkey.models.tinygptv.backbone import TinyGPTVModel
from minimonkey.models.tinygptv.configuration import TinyGPTVConfig
from minimonkey.models.tinygptv.modeling import TinyGPTVForConditionalGeneration
from minimonkey.processing.monkey import MonkeyProcessor, MonkeyTokenizer
from minimonkey.processing.tinygptv import TinyGPTVImageProcessor, TinyGPTVProcessor
from minimonkey.processing.tokenizers import LlamaSentencePieceTokenizer, SentencePieceTokenizer
from minimonkey.processing.windows import MonkeyImageProcessor

Layout = Literal["native", "stock", "published"]
STOCK = InternVLConfig.model_type
"""The model_type of transformers' own class, which Mini-Monkey's family reads and writes."""

FAMILIES: dict[str, Family] = {
    "minimonkey": Family(
        config=MiniMonkeyConfig,
        backbone=MiniMonkeyModel,
        network=MiniMonkeyForConditionalGeneration,
        published=InternVLChatFolder,
        tokenizers=(SentencePieceTokenizer, LlamaSentencePieceTokenizer),
    ),
    "monkey": Family(
        config=MonkeyConfig,
        backbone=MonkeyModel,
        network=MonkeyForConditionalGeneration,
        published=MonkeyFolder,
        image_processor=MonkeyImageProcessor,
        processor=MonkeyProcessor,
        tokenizers=(MonkeyTokenizer,),
    ),
    "tinygptv": Family(
        config=TinyGPTVConfig,
        backbone=TinyGPTVModel,
        network=TinyGPTVForConditionalGeneration,
        published=TinyGPTVFolder,
        image_processor=TinyGPTVImageProcessor,
        processor=TinyGPTVProcessor,
    ),
}
"""Each family by its name, which is the model_type of its native folders."""


def told_apart(path: Path, settings: Mapping[str, Any] | None, name: str) -> tuple[Family, Layout]:
    """The family and the layout of a folder.

    Args:
        path: where it is.
        settings: what its config.json says; None if it has none.
        name: what the message calls the folder.

    Raises:
        CheckpointError: its config.json is of no kind that is known.
    """
    for family in FAMILIES.values():
        if family.published.matches(path, settings):
            return family, "published"
    kind = settings.get("model_type") if isinstance(settings, Mapping) else None
    if kind == STOCK:
        return FAMILIES[MiniMonkeyConfig.model_type], "stock"
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind], "native"
    known = dict.fromkeys((MiniMonkeyConfig.model_type, STOCK, *(f.published.layout_name for f in FAMILIES.values()), *FAMILIES))
    raise CheckpointError(f"{name}/config.json: model_type is {kind!r}; expected one of {', '.join(known)}")


def family_of(config: Any) -> Family:
    """The family of a native configuration."""
    return FAMILIES[config.model_type]


def register() -> None:
    """Teach the Auto classes of transformers our model types; `load()` does it too. Calling it again changes nothing."""
    for name, family in FAMILIES.items():
        AutoConfig.register(name, family.config, exist_ok=True)
        AutoImageProcessor.register(family.config, image_processor_classes={"pil": family.image_processor}, exist_ok=True)
        AutoProcessor.register(family.config, family.processor, exist_ok=True)
        for tokenizer in family.tokenizers:  # found by their names in tokenizer_config.json
            AutoTokenizer.register(family.config, tokenizer_class=tokenizer, exist_ok=True)
        AutoModel.register(family.config, family.backbone, exist_ok=True)
        for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
            auto.register(family.config, family.network, exist_ok=True)
