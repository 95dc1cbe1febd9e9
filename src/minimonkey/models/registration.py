"""Our classes in transformers' Auto classes."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
)

from minimonkey.models.minimonkey.backbone import MiniMonkeyModel
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.processing.tokenizers import LlamaSentencePieceTokenizer, SentencePieceTokenizer


def register() -> None:
    """Teach the Auto classes of transformers our model type; `load()` does it too. Calling it again changes nothing."""
    AutoConfig.register("minimonkey", MiniMonkeyConfig, exist_ok=True)
    AutoImageProcessor.register(MiniMonkeyConfig, image_processor_classes={"pil": MiniMonkeyImageProcessor}, exist_ok=True)
    AutoProcessor.register(MiniMonkeyConfig, MiniMonkeyProcessor, exist_ok=True)
    for tokenizer in (SentencePieceTokenizer, LlamaSentencePieceTokenizer):  # found by their names in tokenizer_config.json
        AutoTokenizer.register(MiniMonkeyConfig, tokenizer_class=tokenizer, exist_ok=True)
    AutoModel.register(MiniMonkeyConfig, MiniMonkeyModel, exist_ok=True)
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto.register(MiniMonkeyConfig, MiniMonkeyForConditionalGeneration, exist_ok=True)
