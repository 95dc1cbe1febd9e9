"""Load a model and ask it: the only place that chooses device, number format and backend."""

from minimonkey.inference.answer import Answer
from minimonkey.inference.loading import EMBEDDED, load
from minimonkey.inference.open_picture import OpenPicture
from minimonkey.inference.vision_language_model import DEFAULT, VisionLanguageModel

__all__ = ["DEFAULT", "EMBEDDED", "Answer", "OpenPicture", "VisionLanguageModel", "load"]
