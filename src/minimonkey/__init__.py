"""Small multimodal language models that read fine print.

    import minimonkey

    vlm = minimonkey.load()
    print(vlm.ask("receipt.png", "What is the total?"))

Importing this loads neither torch nor transformers: each public name brings its module when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

_MODULE_OF = {
    "Answer": "answer",
    "Box": "pyramid",
    "CheckpointError": "errors",
    "CompressionSpec": "compression",
    "DataError": "errors",
    "Grid": "pyramid",
    "MiniMonkeyConfig": "configuration",
    "MiniMonkeyError": "errors",
    "MiniMonkeyForConditionalGeneration": "modeling",
    "MiniMonkeyImageProcessor": "image_processing",
    "MiniMonkeyProcessor": "processing",
    "MissingExtraError": "errors",
    "OpenPicture": "opened",
    "PictureError": "errors",
    "PromptError": "errors",
    "Pyramid": "pyramid",
    "PyramidError": "errors",
    "PyramidSpec": "pyramid",
    "ShortOfMemoryError": "errors",
    "Size": "pyramid",
    "UsageError": "errors",
    "VisionLanguageModel": "inference",
    "load": "inference",
    "load_picture": "documents",
}

__all__ = ["register", *_MODULE_OF]


def register() -> None:
    """Teach the Auto classes of transformers our model type; `load()` does it too. Calling it again changes nothing."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    from minimonkey.configuration import MiniMonkeyConfig
    from minimonkey.image_processing import MiniMonkeyImageProcessor
    from minimonkey.modeling import MiniMonkeyForConditionalGeneration
    from minimonkey.processing import MiniMonkeyProcessor
    from minimonkey.tokenization import LlamaSentencePieceTokenizer, SentencePieceTokenizer

    AutoConfig.register("minimonkey", MiniMonkeyConfig, exist_ok=True)
    AutoImageProcessor.register(MiniMonkeyConfig, image_processor_classes={"pil": MiniMonkeyImageProcessor}, exist_ok=True)
    AutoProcessor.register(MiniMonkeyConfig, MiniMonkeyProcessor, exist_ok=True)
    for tokenizer in (SentencePieceTokenizer, LlamaSentencePieceTokenizer):  # found by their names in tokenizer_config.json
        AutoTokenizer.register(MiniMonkeyConfig, tokenizer_class=tokenizer, exist_ok=True)
    AutoModelForImageTextToText.register(MiniMonkeyConfig, MiniMonkeyForConditionalGeneration, exist_ok=True)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("minimonkey")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'minimonkey' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"minimonkey.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
