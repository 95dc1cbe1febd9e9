"""Monkey's views: windows as Pillow resizes them, the global view of their normalised pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from minimonkey.errors import PyramidError
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.windows import MonkeyImageProcessor
from minimonkey.pyramid import Grid, PyramidSpec


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8))


def spec(**settings):
    return PyramidSpec.windows(3, 2, tile_px=28, **settings)


def test_six_windows_and_the_whole(picture):
    ours = MonkeyImageProcessor(pyramid=spec())
    plain = MiniMonkeyImageProcessor(pyramid=spec(), image_mean=ours.image_mean, image_std=ours.image_std)
    views, tiles = (processor(images=[picture], return_tensors="pt")["pixel_values"] for processor in (ours, plain))
    assert torch.equal(views[:6], tiles[:6])
    canvas = torch.cat([torch.cat(list(row), dim=2) for row in views[:6].unflatten(0, (2, 3))], dim=1)
    whole = torch.nn.functional.interpolate(canvas[None], (28, 28), mode="bicubic", align_corners=False)[0]
    assert torch.equal(views[6], whole)


def test_levels_in_another_order_and_several_pictures(picture):
    settings = {"adaptive": (3, 7), "order": ("thumbnail", "adaptive", "detail")}
    processor = MonkeyImageProcessor(pyramid=spec(**settings))
    inputs = processor(images=[picture, picture], return_tensors="pt")
    count = inputs["num_patches"][0]
    views, plain = (
        inputs["pixel_values"],
        MonkeyImageProcessor(pyramid=spec())(images=[picture], return_tensors="pt")["pixel_values"],
    )
    assert torch.equal(views[:count], views[count:])
    assert torch.equal(views[count - 6 : count], plain[:6]) and torch.equal(views[0], plain[6])
    planned = [processor.spec.plan((picture.height, picture.width))] * 2
    assert torch.equal(processor.cut([picture, picture], planned), views)


def test_changes_of_a_call(picture):
    processor = MonkeyImageProcessor(pyramid=spec())
    assert processor.spec_for({"pyramid": {"grid": (2, 2)}}).detail == (4, 4)
    assert processor.spec_for({"pyramid": {"detail": (4, 4)}}).grid is None
    assert processor.spec_for({"max_patches": 4}).grid is None
    assert processor.spec_for({"crop_to_patches": False}).plan((9, 9)).tile_count == 1
    assert processor.spec_for({}).grid == Grid(3, 2)
    with pytest.raises(PyramidError, match="grid=.*: expected two whole numbers"):
        processor.spec_for({"pyramid": {"grid": "2x2"}})
