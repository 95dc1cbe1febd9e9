"""Load a model and ask it: the only place that chooses device, number format and engine."""

from minimonkey.inference.answer import Answer
from minimonkey.inference.extract import Extraction
from minimonkey.inference.open_picture import OpenPicture
from minimonkey.inference.vision_language_model import EMBEDDED, VisionLanguageModel, load

__all__ = ["EMBEDDED", "Answer", "Extraction", "OpenPicture", "VisionLanguageModel", "load"]
