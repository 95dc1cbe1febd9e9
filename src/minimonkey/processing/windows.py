"""Monkey's views of a picture: windows of the enlarged picture, and the picture as a whole, made of the same pixels.

The published code (`visual.py`) resizes a file once, to all windows together, and makes the global view of what it has normalised.
Knows PIL and tensors, no tokens and no model.

    shapes: T tiles of all pictures, S side of a tile
"""

# No postponed annotations here: transformers reads those of settings.
import numpy as np
import torch
from PIL import Image
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.pyramid import Pyramid


class MonkeyImageProcessor(MiniMonkeyImageProcessor):
    """As `MiniMonkeyImageProcessor`, but the thumbnail is made of the detail level's pixels once they are normalised: resized by
    torch, bicubically and without smoothing, as published. A picture without a detail level is resized by Pillow."""

    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD

    def _normalised(
        self, pictures: list[Image.Image], pyramids: list[Pyramid], tile_px: int, rescale_factor: float | None, *normalise
    ) -> np.ndarray:
        pixel_values = super()._normalised(pictures, pyramids, tile_px, rescale_factor, *normalise)
        start = 0
        for pyramid in pyramids:
            firsts, place = {}, start
            for level in pyramid.levels:
                firsts[level.name] = place
                place += level.grid.tiles
            if pyramid.detail is not None and pyramid.thumbnail is not None:
                columns, rows = pyramid.detail.grid
                windows = torch.from_numpy(pixel_values[firsts["detail"] : firsts["detail"] + rows * columns])
                canvas = (
                    windows.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
                )  # [3, rows*S, columns*S]
                whole = torch.nn.functional.interpolate(canvas[None], (tile_px, tile_px), mode="bicubic", align_corners=False)
                pixel_values[firsts["thumbnail"]] = whole[0].numpy()
            start = place
        return pixel_values
