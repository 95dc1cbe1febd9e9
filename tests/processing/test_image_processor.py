"""Tiles against the published code's, and what the image processor takes, gives and keeps."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoImageProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from minimonkey.errors import PictureError, PyramidError, UsageError
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor, paper_colour, render_level, tiles_uint8
from minimonkey.pyramid import PyramidSpec, Size

GOLDEN = Path(__file__).parents[1] / "golden" / "pixels"
PUBLISHED = {
    "demo": PyramidSpec(tile_px=56, order=("adaptive", "detail", "thumbnail")),
    "eval_order": PyramidSpec(tile_px=56),
    "plain": PyramidSpec.plain(tile_px=56),
    "train": PyramidSpec(tile_px=56, detail=(1, 8), adaptive=(1, 4), exclude="either"),
}
RECORDS = json.loads((GOLDEN / "records.json").read_text())["pictures"]
ROWS = [(picture, section) for picture, sections in RECORDS.items() for section in sections]
CREATED = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=8, max_upscale=2.0))


def picture_of(name: str) -> Image.Image:
    return Image.open(GOLDEN / f"{name}.png")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load_file(GOLDEN / "tiles.safetensors")


@pytest.mark.parametrize(("picture", "section"), ROWS)
def test_tiles_are_the_published_ones(picture, section, golden):
    """Four pictures, among them RGBA and black and white, in all published orders and rules."""
    record = RECORDS[picture][section]
    tiles = tiles_uint8(picture_of(picture), PUBLISHED[section])
    assert len(tiles) == record["n_tiles"]
    assert hashlib.sha256(tiles.tobytes()).hexdigest() == record["sha256_uint8_tiles"]
    if f"{picture}/{section}/tiles_u8" in golden:
        np.testing.assert_array_equal(tiles, golden[f"{picture}/{section}/tiles_u8"])

    output = MiniMonkeyImageProcessor(pyramid=PUBLISHED[section])(picture_of(picture), return_tensors="pt")
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert torch.equal(output.pixel_values, (torch.from_numpy(tiles).float() / 255 - mean) / std)
    assert output.pixel_values.sum(dtype=torch.float64).item() == pytest.approx(record["sum"], abs=1e-4)
    if f"{picture}/{section}/pixel_values_first2" in golden:
        np.testing.assert_allclose(output.pixel_values[:2], golden[f"{picture}/{section}/pixel_values_first2"], rtol=0, atol=1e-6)


def test_counts_of_each_level_whatever_their_order():
    output = MiniMonkeyImageProcessor(pyramid=PUBLISHED["demo"])(
        [picture_of("near_square"), picture_of("wide_receipt")], return_tensors="pt"
    )
    assert output.level_tiles.tolist() == [[9, 4, 1], [12, 4, 1]]
    assert output.level_tiles.dtype == torch.int64
    assert output.num_patches.tolist() == [14, 17]
    assert output.pixel_values.shape == (31, 3, 56, 56)
    assert output.pixel_values.dtype == torch.float32


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_tiles_are_cut_where_the_plan_says(fit):
    spec, picture = PyramidSpec(tile_px=16, fit=fit, max_upscale=1.5), noise(90, 40)
    tiles = iter(tiles_uint8(picture, spec))
    for level in spec.plan(Size(40, 90)).levels:
        canvas = render_level(picture, level)
        assert canvas.size == (level.canvas.width, level.canvas.height)
        for tile in level.tiles:
            np.testing.assert_array_equal(next(tiles), np.asarray(canvas.crop(tile.canvas_box)).transpose(2, 0, 1))
    assert next(tiles, None) is None


def test_padding_keeps_proportions_on_paper_of_the_pictures_colour():
    picture = Image.new("RGB", (100, 20), (250, 240, 200))
    picture.paste((10, 20, 30), (1, 1, 99, 19))
    level = PyramidSpec(tile_px=56, fit="pad").plan(Size(20, 100)).thumbnail
    canvas = np.asarray(render_level(picture, level))
    left, top, right, bottom = level.content
    assert (right - left, bottom - top) == (56, 11)
    assert (canvas[:top] == (250, 240, 200)).all()
    assert (canvas[bottom:] == (250, 240, 200)).all()
    np.testing.assert_array_equal(canvas[top:bottom, left:right], picture.resize((56, 11), Image.Resampling.BICUBIC))


def test_paper_colour_is_the_median_of_the_outermost_pixels():
    picture = Image.new("RGB", (7, 5), (1, 2, 3))
    picture.paste((90, 90, 90), (1, 1, 6, 4))  # all that is not on the edge
    picture.putpixel((0, 0), (255, 255, 255))
    assert paper_colour(picture) == (1, 2, 3)
    assert paper_colour(Image.new("RGB", (1, 1), (4, 5, 6))) == (4, 5, 6)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), fit=st.sampled_from(["stretch", "pad"]), most=st.integers(1, 9))
def test_the_count_without_pixels_is_the_count_with(width, height, fit, most):
    changes = {"pyramid": {"fit": fit}, "max_patches": most}
    output = CREATED(Image.new("L", (width, height)), **changes)
    assert CREATED.get_number_of_image_patches(height, width, changes) == len(output.pixel_values) == output.num_patches[0]
    assert output.level_tiles.sum() == output.num_patches[0]


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000)])
def test_slivers_have_tiles(size):
    output = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=8))(Image.new("RGB", size, "white"))
    assert len(output.pixel_values) >= 2
    assert np.ptp(output.pixel_values[:, 0]) == 0


# -- settings --------------------------------------------------------------------------------------------------------------


def test_the_pyramid_survives_a_round_trip_through_the_auto_class(tmp_path, auto_classes):
    spec = PyramidSpec(
        tile_px=28, detail=(2, 6), adaptive=None, order=("thumbnail", "detail", "adaptive"), max_upscale=1.5, fit="pad"
    )
    MiniMonkeyImageProcessor(pyramid=spec).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert PyramidSpec.from_dict(stored["pyramid"]) == spec
    assert stored["size"] == {"height": 28, "width": 28}
    assert (stored["min_patches"], stored["max_patches"]) == (2, 6)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is MiniMonkeyImageProcessor
    assert again.spec == spec
    assert again.backend == "pil"


@pytest.mark.parametrize("stored_crop", [True, False])
def test_settings_of_a_stock_folder_give_the_stock_tiles(tmp_path, stored_crop):
    stock = GotOcr2ImageProcessorPil(
        crop_to_patches=stored_crop, min_patches=2, max_patches=6, size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    stock.save_pretrained(tmp_path)
    ours = MiniMonkeyImageProcessor.from_pretrained(tmp_path)
    assert ours.spec == PyramidSpec.plain(2, 6, tile_px=32)
    pictures = [noise(100, 60), noise(31, 200, 1), Image.new("L", (5, 5), 77)]
    expected = stock(pictures, crop_to_patches=True, return_tensors="pt")
    output = ours(pictures, return_tensors="pt", return_level_tiles=False)
    assert set(output) == set(expected)
    assert output.num_patches.tolist() == list(expected.num_patches)
    np.testing.assert_allclose(output.pixel_values, expected.pixel_values, rtol=0, atol=1e-6)
    whole = ours(pictures, return_tensors="pt", crop_to_patches=False)
    np.testing.assert_allclose(
        whole.pixel_values, stock(pictures, crop_to_patches=False, return_tensors="pt").pixel_values, atol=1e-6
    )


def test_a_call_changes_what_it_names():
    processor = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=56, max_upscale=3.0))
    own = processor.spec
    assert processor.spec_for({}) == own
    assert processor.spec_for({"pyramid": {"adaptive": None}}) == dataclasses.replace(own, adaptive=None)
    assert processor.spec_for({"pyramid": PyramidSpec(detail=(1, 2))}) == PyramidSpec(tile_px=56, detail=(1, 2))
    assert processor.spec_for({"max_patches": 3}) == dataclasses.replace(own, detail=(3, 3))
    assert processor.spec_for({"min_patches": 20}) == dataclasses.replace(own, detail=(20, 20))
    assert processor.spec_for({"crop_to_patches": False}).plan(Size(900, 900)).level_tiles == (0, 0, 1)
    assert processor.spec == own
    output = processor(noise(200, 200), pyramid=PyramidSpec(detail=(2, 2), adaptive=None))
    assert output.pixel_values.shape == (3, 3, 56, 56)


def test_setting_the_spec_sets_what_stock_readers_look_at():
    processor = MiniMonkeyImageProcessor()
    assert processor.spec == PyramidSpec.plain(1, 12, tile_px=448)
    processor.spec = PyramidSpec(tile_px=64, detail=(3, 5))
    assert processor.spec == PyramidSpec(tile_px=64, detail=(3, 5))
    assert (processor.min_patches, processor.max_patches, processor.size["height"]) == (3, 5, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pyramid": {"detial": (1, 2)}}, "'detail'"),
        ({"pyramid": "4-12/3-7"}, "pyramid='4-12/3-7': expected a PyramidSpec or a dict of its fields"),
        ({"pyramid": {"detail": (5, 2)}}, "detail=(5, 2)"),
        ({"pyramid": PyramidSpec(tile_px=112)}, "tile_px=112, but this model's tiles have 56 px"),
        ({"pyramid": {"tile_px": 112}}, "tile_px=112, but this model's tiles have 56 px"),
        ({"size": {"height": 112, "width": 112}}, "tile_px=112, but this model's tiles have 56 px"),
        ({"size": {"height": 56, "width": 28}}, "tiles are squares"),
        ({"min_patches": 0}, "detail=(0, 12)"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, message):
    processor = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=56))
    with pytest.raises(PyramidError) as error:
        processor(noise(60, 60), **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# -- kinds of pictures -----------------------------------------------------------------------------------------------------


def test_arrays_and_tensors_are_pictures_too():
    processor, picture = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=16)), noise(50, 40)
    array = np.asarray(picture)
    expected = processor(picture).pixel_values
    for same in (array, array.transpose(2, 0, 1), torch.tensor(array), array.astype(np.float32) / 255, [array], [[picture]]):
        np.testing.assert_array_equal(processor(same).pixel_values, expected)
    assert processor([array, picture]).num_patches == [expected.shape[0]] * 2
    grey = array[None, :, :, 0]
    np.testing.assert_array_equal(processor(grey).pixel_values, processor(Image.fromarray(grey[0])).pixel_values)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_are_converted_as_published(mode):
    picture = noise(30, 20).convert(mode)
    processor = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=16))
    np.testing.assert_array_equal(processor(picture).pixel_values, processor(picture.convert("RGB")).pixel_values)


def test_arrays_with_transparency_are_read_as_pictures_with_transparency():
    processor, picture = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=16)), noise(50, 40).convert("RGBA")
    picture.putalpha(noise(50, 40).convert("L"))
    array = np.asarray(picture)
    assert array.shape == (40, 50, 4)
    expected = processor(picture).pixel_values
    planes = array.transpose(2, 0, 1)
    for same in (array, planes, torch.tensor(array), torch.tensor(planes), array.astype(np.float32) / 255):
        np.testing.assert_array_equal(processor(same).pixel_values, expected)
    np.testing.assert_array_equal(processor(planes, input_data_format="channels_first").pixel_values, expected)
    batch = processor([array, noise(50, 40), array[..., :3]])
    np.testing.assert_array_equal(batch.pixel_values, np.concatenate([expected] * 3))


def test_means_are_those_of_rgb():
    processor, picture = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=16)), noise(50, 40)
    expected = processor(picture, image_mean=[0.5] * 3, image_std=[0.25] * 3).pixel_values
    np.testing.assert_array_equal(processor(picture, image_mean=0.5, image_std=0.25).pixel_values, expected)
    for name in ("image_mean", "image_std"):
        with pytest.raises(UsageError, match=rf"^{name}=\(0\.5, 0\.5, 0\.5, 0\.5\): expected one number, or one each for red"):
            processor(picture, **{name: (0.5,) * 4})


@pytest.mark.parametrize("array", [np.full((3, 9, 9), -0.5), np.zeros((4, 9, 9), np.complex64), np.zeros((5, 9, 9), np.uint8)])
def test_an_array_that_is_no_picture_is_one_line(array):
    with pytest.raises(PictureError, match=r"array of shape \(\d, 9, 9\) is no picture: expected uint8, or floats from 0 to 1"):
        MiniMonkeyImageProcessor()(array)


def test_tiles_can_stay_unnormalised():
    processor = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=16))
    tiles = tiles_uint8(noise(50, 40), processor.spec)
    np.testing.assert_array_equal(processor(noise(50, 40), do_rescale=False, do_normalize=False).pixel_values, tiles)
    np.testing.assert_array_equal(processor(noise(50, 40), do_normalize=False).pixel_values, tiles / np.float32(255))
