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
    "Answer": "inference",
    "Box": "pyramid",
    "CheckpointError": "errors",
    "CompressionSpec": "compression",
    "DataError": "errors",
    "EndpointError": "errors",
    "Extraction": "inference",
    "ExtractionError": "errors",
    "Grid": "pyramid",
    "MiniMonkeyConfig": "models.minimonkey.configuration",
    "MiniMonkeyError": "errors",
    "MiniMonkeyForConditionalGeneration": "models.minimonkey.modeling",
    "MiniMonkeyImageProcessor": "processing.image_processor",
    "MiniMonkeyProcessor": "processing.processor",
    "MissingExtraError": "errors",
    "OpenPicture": "inference",
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
    "register": "checkpoints.families",
}

__all__ = [*_MODULE_OF]


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
