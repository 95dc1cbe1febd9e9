"""transformers' tests of processors and image processors on ours."""

from __future__ import annotations

import unittest
from typing import Any

import minimonkey
from minimonkey import MiniMonkeyImageProcessor, MiniMonkeyProcessor, PyramidSpec
from minimonkey.training.nano.character_tokenizer import character_tokenizer
from tests.peer.suite import mixins

minimonkey.register()
TILE_PX = 28
SIZE = {"height": TILE_PX, "width": TILE_PX}
PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))
Processors, Images = mixins("test_processing_common"), mixins("test_image_processing_common")


class ProcessorTest(Processors.ProcessorTesterMixin, unittest.TestCase):
    """As a stock folder has it: a detail level of one to twelve tiles, and a thumbnail."""

    processor_class = MiniMonkeyProcessor

    @classmethod
    def _setup_image_processor(cls) -> MiniMonkeyImageProcessor:
        return MiniMonkeyImageProcessor(size=SIZE)

    @classmethod
    def _setup_tokenizer(cls) -> Any:
        return character_tokenizer(PRINTABLE)

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        return {"image_seq_length": 2}


class PyramidProcessorTest(ProcessorTest):
    """With three levels, and what each has told."""

    @classmethod
    def _setup_image_processor(cls) -> MiniMonkeyImageProcessor:
        return MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=TILE_PX))


class ImageTester(Images.ImageProcessingTester):
    """One tile a picture, as the mixin counts pictures."""

    settings: dict[str, Any] = {"size": SIZE, "max_patches": 1, "do_normalize": True, "do_convert_rgb": True}

    def __init__(self, parent: unittest.TestCase) -> None:
        super().__init__(parent, **self.settings)

    def _get_image_processing_classes(self) -> dict[str, type]:
        return {"pil": MiniMonkeyImageProcessor}


class PyramidImageTester(ImageTester):
    settings = ImageTester.settings | {"pyramid": {"tile_px": TILE_PX, "detail": (1, 1), "adaptive": None}}


class ImageProcessorTest(Images.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ImageTester


class PyramidImageProcessorTest(ImageProcessorTest):
    image_processor_tester_class = PyramidImageTester
