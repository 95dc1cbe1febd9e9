"""Pictures to tiles: each level of the pyramid is resized as a whole, cut row by row and normalised.

Knows PIL and numpy, no tokens and no model. The reference is the published preprocessing (`build_transform`, `dynamic_preprocess`
in Mini-Monkey's `demo.py`): `convert("RGB")`, Pillow's bicubic filter, `(x / 255 - mean) / std` in float32, in this order.

Shape legend: T tiles of all pictures, S side of a tile, P pictures.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.image_transforms import to_pil_image
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageInput,
    SizeDict,
    infer_channel_dimension_format,
    is_pil_image,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorKwargs, GotOcr2ImageProcessorPil

from minimonkey.errors import PictureError, PyramidError, UsageError
from minimonkey.pyramid import Level, Pyramid, PyramidSpec, Size

THREADS_PAY_FROM = 4_000_000
"""Values in all tiles of a picture from which threads are worth starting: seven tiles of 448 px."""


def render_level(picture: Image.Image, level: Level) -> Image.Image:
    """Draw the canvas of one level as the model sees it, before cutting.

    Where `fit="pad"` leaves room round the picture, the canvas has the picture's own paper colour.

    Args:
        picture: in any mode.
        level: of its pyramid.

    Returns:
        An RGB picture of `level.canvas` pixels.
    """
    picture = _rgb(picture)
    left, top, right, bottom = level.content
    content = picture.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    if content.size == (level.canvas.width, level.canvas.height):
        return content
    canvas = Image.new("RGB", (level.canvas.width, level.canvas.height), paper_colour(picture))
    canvas.paste(content, (left, top))
    return canvas


def paper_colour(picture: Image.Image) -> tuple[int, int, int]:
    """The median of the outermost pixels of an RGB picture, each channel by itself."""
    width, height = picture.size
    edges = [(0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height)]
    border = np.concatenate([np.asarray(picture.crop(edge)).reshape(-1, 3) for edge in edges])  # [pixels, 3]
    red, green, blue = np.sort(border, axis=0)[len(border) // 2].tolist()
    return red, green, blue


def tiles_uint8(picture: Image.Image, spec: PyramidSpec) -> np.ndarray:
    """Cut a picture, without normalising it.

    Args:
        picture: in any mode.
        spec: how it is cut.

    Returns:
        All tiles in the order of the sequence, uint8 [T, 3, S, S].
    """
    pyramid = spec.plan(Size(picture.height, picture.width))
    tiles = np.empty((pyramid.tile_count, 3, spec.tile_px, spec.tile_px), np.uint8)
    _cut(picture, pyramid, tiles, write=lambda tile, out: np.copyto(out, tile))
    return tiles


def _cut(picture: Image.Image, pyramid: Pyramid, tiles: np.ndarray, write: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Fill `tiles` [T, 3, S, S] with `write(tile, out)`: a tile, uint8 [3, S, S], and where it goes.

    Levels of a large picture are made side by side, in as many threads as torch has: Pillow spends most of the time.
    """
    picture = _rgb(picture)
    picture.load()  # here, not in two threads at once

    def fill(level: Level, first: int) -> None:
        canvas = np.asarray(render_level(picture, level))
        for number, tile in enumerate(level.tiles, first):
            left, top, right, bottom = tile.canvas_box
            write(canvas[top:bottom, left:right].transpose(2, 0, 1), tiles[number])

    levels = list(pyramid.levels)
    firsts = list(accumulate((level.grid.tiles for level in levels), initial=0))[:-1]
    threads = torch.get_num_threads() if tiles.size >= THREADS_PAY_FROM else 1
    if threads == 1:
        list(map(fill, levels, firsts))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, levels, firsts))


def _rgb(picture: Image.Image) -> Image.Image:
    """As published, `convert("RGB")`, without the copy of what is RGB already."""
    return picture if picture.mode == "RGB" else picture.convert("RGB")


class MiniMonkeyImageProcessorKwargs(GotOcr2ImageProcessorKwargs, total=False):
    """Settings of `MiniMonkeyImageProcessor`, on creation and for a single call."""

    pyramid: PyramidSpec | dict | None
    return_level_tiles: bool


class MiniMonkeyImageProcessor(GotOcr2ImageProcessorPil):
    """Pictures to `pixel_values` (float32 [T, 3, S, S]), `num_patches` (tiles of each picture) and `level_tiles` (int64 [P, 3]:
    tiles of the detail, adaptive and thumbnail level).

    Settings, all kept in preprocessor_config.json and all accepted by a single call too:
    * `pyramid`: a `PyramidSpec` or a dict of its fields. A dict changes the fields that it names and keeps the others.
    * without one, `min_patches`, `max_patches` and `size` of a stock InternVL folder mean `PyramidSpec.plain`. The
      `crop_to_patches` stored there is ignored, as InternVL's processor does; `crop_to_patches=False` in a call asks for the
      thumbnail alone.
    * `min_patches` and `max_patches` in a call change the budget of the detail level, whatever the pyramid.
    * `return_level_tiles=False` leaves `level_tiles` out, for models of the stock class.

    Pictures are PIL pictures, arrays or tensors (uint8, or float from 0 to 1; channels first or last), or lists of them.
    Raises PyramidError or UsageError for a wrong setting, and PictureError for an array that is no picture.
    """

    valid_kwargs = MiniMonkeyImageProcessorKwargs
    model_input_names = ["pixel_values", "level_tiles"]
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 448, "width": 448}
    pyramid: dict | None = None
    return_level_tiles = True

    def __init__(self, **kwargs) -> None:
        pyramid = kwargs.pop("pyramid", None)
        super().__init__(**kwargs)
        self.crop_to_patches = True
        if isinstance(pyramid, dict):
            pyramid = PyramidSpec.from_dict({"tile_px": _tile_px(self.size), **pyramid})
        if pyramid is not None:
            self.spec = pyramid

    @property
    def spec(self) -> PyramidSpec:
        """How pictures are cut unless a call says otherwise. Setting it sets `pyramid`, `size` and the patch budget together."""
        if self.pyramid is None:
            return PyramidSpec.plain(self.min_patches, self.max_patches, tile_px=_tile_px(self.size))
        return PyramidSpec.from_dict(self.pyramid)

    @spec.setter
    def spec(self, spec: PyramidSpec) -> None:
        self.pyramid = dataclasses.asdict(spec)
        self.min_patches, self.max_patches = spec.detail
        self.size = SizeDict(height=spec.tile_px, width=spec.tile_px)

    def spec_for(self, settings: Mapping[str, Any]) -> PyramidSpec:
        """The pyramid of one call: the processor's own, changed by the call.

        Args:
            settings: those of the call, of which `pyramid`, `size`, `crop_to_patches`, `min_patches` and `max_patches` count. A
                `tile_px` left at the default of PyramidSpec is the model's.

        Raises:
            PyramidError: a wrong setting, or tiles of another size than the model's.
        """
        own, pyramid = self.spec, settings.get("pyramid")
        if not isinstance(pyramid, PyramidSpec | Mapping | None):
            raise PyramidError(f"pyramid={pyramid!r}: expected a PyramidSpec or a dict of its fields")
        if not isinstance(pyramid, PyramidSpec):
            pyramid = PyramidSpec.from_dict({**dataclasses.asdict(own), **(pyramid or {})})
        tile_px = pyramid.tile_px if settings.get("size") is None else _tile_px(settings["size"])
        if tile_px not in (own.tile_px, PyramidSpec.tile_px):
            raise PyramidError(f"tile_px={tile_px}, but this model's tiles have {own.tile_px} px: leave tile_px and size out")
        fewest, most = pyramid.detail
        if (asked_most := settings.get("max_patches")) is not None:
            fewest, most = min(fewest, asked_most), asked_most
        if (asked_fewest := settings.get("min_patches")) is not None:
            fewest, most = asked_fewest, most if asked_most is not None else max(most, asked_fewest)
        spec = dataclasses.replace(pyramid, tile_px=own.tile_px, detail=(fewest, most))
        if settings.get("crop_to_patches") is False:
            spec = dataclasses.replace(spec, detail=(1, 1), adaptive=None)
        return spec

    def preprocess(self, images: ImageInput, *args, **kwargs) -> BatchFeature:
        """Cut pictures and normalise their tiles.

        Args:
            images: PIL pictures, arrays or tensors (uint8, or float from 0 to 1; channels first or last), one or a list.
            args, kwargs: settings of this call, see the class.

        Returns:
            `pixel_values` float32 [T, 3, S, S], `num_patches` (tiles of each picture), `level_tiles` int64 [P, 3].

        Raises:
            PyramidError, UsageError: a wrong setting.
            PictureError: an array that is no picture.
        """
        kwargs["pyramid"] = self.spec_for(kwargs)
        return super().preprocess(images, *args, **kwargs)

    def process_image(self, image, do_convert_rgb: bool | None = None, input_data_format=None, **kwargs) -> Image.Image:
        """One picture as RGB, `convert("RGB")` as published: transparency is dropped, EXIF not read."""
        if is_pil_image(image):
            return _rgb(image)
        array = np.asarray(image)
        try:
            if array.dtype.kind not in "biuf":
                raise TypeError(f"no numbers of a picture: {array.dtype}")
            if input_data_format is None and array.ndim == 3 and not {1, 3} & {array.shape[0], array.shape[2]}:
                input_data_format = infer_channel_dimension_format(array, num_channels=4)  # `to_pil_image` looks for 1 and 3 alone
            picture = to_pil_image(array, input_data_format=input_data_format)
        except (TypeError, ValueError) as error:
            kind = f"a {array.dtype} array of shape {array.shape}"
            raise PictureError(f"{kind} is no picture: expected uint8, or floats from 0 to 1, with 1, 3 or 4 channels") from error
        return _rgb(picture)

    def _preprocess(
        self,
        images: list[Image.Image],
        *,
        pyramid: PyramidSpec,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        return_level_tiles: bool,
        return_tensors: str | None,
        **kwargs,
    ) -> BatchFeature:
        plans = [pyramid.plan(Size(image.height, image.width)) for image in images]
        counts = [plan.tile_count for plan in plans]
        divisor = rescale_factor if do_rescale else None
        pixel_values = _normalised(images, plans, pyramid.tile_px, divisor, *((image_mean, image_std) if do_normalize else ()))
        data = {"pixel_values": pixel_values, "num_patches": counts}
        if return_level_tiles:
            data["level_tiles"] = np.array([plan.level_tiles for plan in plans], np.int64).reshape(-1, 3)
        return BatchFeature(data, tensor_type=return_tensors)

    def cut(self, pictures: Sequence[Image.Image], pyramids: Sequence[Pyramid]) -> torch.Tensor:
        """Cut pictures whose pyramids are planned already.

        Args:
            pictures: PIL pictures.
            pyramids: what the spec of a call has planned for each.

        Returns:
            `pixel_values` as `preprocess` makes them with this processor's own settings, float32 [T, 3, S, S].
        """
        factor = self.rescale_factor if self.do_rescale else None
        normalise = (self.image_mean, self.image_std) if self.do_normalize else ()
        return torch.from_numpy(_normalised(list(pictures), list(pyramids), self.spec.tile_px, factor, *normalise))

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """How many tiles a picture becomes, without its pixels.

        Args:
            height, width: of the picture, in pixels.
            images_kwargs: settings of the call.

        Returns:
            Tiles of all levels together.
        """
        return self.spec_for(images_kwargs or {}).plan(Size(height, width)).tile_count


def _normalised(
    pictures: list[Image.Image],
    pyramids: list[Pyramid],
    tile_px: int,
    rescale_factor: float | None,
    image_mean: Sequence[float] = (0, 0, 0),
    image_std: Sequence[float] = (1, 1, 1),
) -> np.ndarray:
    """The tiles of all pictures, `(pixel * rescale_factor - mean) / std`: float32 [T, 3, S, S]."""
    pixel_values = np.empty((sum(plan.tile_count for plan in pyramids), 3, tile_px, tile_px), np.float32)
    divisor = np.float32(1 if rescale_factor is None else 1 / rescale_factor)
    means, stds = _by_channel("image_mean", image_mean), _by_channel("image_std", image_std)

    def normalise(tile: np.ndarray, out: np.ndarray) -> None:
        for plane, result, mean, std in zip(tile, out, means, stds, strict=True):  # planes stay in the cache
            result[...] = plane
            result /= divisor
            result -= mean
            result /= std

    start = 0
    for picture, plan in zip(pictures, pyramids, strict=True):
        _cut(picture, plan, pixel_values[start : start + plan.tile_count], normalise)
        start += plan.tile_count
    return pixel_values


def _by_channel(name: str, value: Any) -> np.ndarray:
    """One number for all channels, or one for each, as float32 [3]."""
    numbers = np.asarray(value, np.float32)
    if numbers.shape not in ((), (3,)):
        raise UsageError(f"{name}={value!r}: expected one number, or one each for red, green and blue; pictures are read as RGB")
    return np.broadcast_to(numbers, 3)


def _tile_px(size: Any) -> int:
    if size["height"] != size["width"]:
        raise PyramidError(f"size={dict(size)}: tiles are squares; set height and width to the same")
    return size["height"]
