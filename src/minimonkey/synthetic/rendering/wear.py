"""What happens to a painted page before a model sees it: laid on a desk, folded, lit unevenly, stained, noisy, blurred, JPEG.

Nothing is moved here but by `laid`, which follows a `Placement`; whatever is done stays readable for letters of `px` pixels.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.rendering.degrade import unevenness
from minimonkey.synthetic.rendering.lines import Placement
from minimonkey.synthetic.rendering.sheet import Colour

COARSE = 8
"""Light and folds are drawn on a picture that many times smaller: they are smooth."""


def laid(sheet: Image.Image, place: Placement, size: tuple[int, int], desk: Colour) -> Image.Image:
    """The sheet turned and moved onto a picture of `size` (width, height); beyond its edges is `desk`."""
    if place.angle:
        return sheet.transform(size, Image.Transform.AFFINE, place.back(), Image.Resampling.BILINEAR, fillcolor=desk)
    if size == sheet.size:
        return sheet
    picture = Image.new("RGB", size, desk)
    picture.paste(sheet, (round(place.x), round(place.y)))
    return picture


def light(dice: Dice, size: tuple[int, int], folded: bool) -> Image.Image:
    """A field to multiply with, mode "L": light from one side, shades, and folds."""
    width, height = (max(4, side // COARSE) for side in size)
    field = unevenness(dice.rng, width, height, dice.uniform(0.05, 0.4)).copy()
    if folded:
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        for share in dice.one(((0.5,), (0.33, 0.66), (0.5,))):
            across, depth = dice.chance(0.6), dice.uniform(0.06, 0.25)
            away = (y - share * height)[:, None] if across else (x - share * width)[None]
            # Dark on one side of the fold, a little lighter on the other.
            field *= 1 - depth * np.exp(-np.abs(away) / dice.uniform(1, 8)) * (away > 0) + 0.3 * depth * np.exp(-np.abs(away) / 2)
    field = np.clip(field / np.quantile(field, 0.9), 0.45, 1)
    return Image.fromarray((field * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


def stained(dice: Dice, picture: Image.Image) -> Image.Image:
    """Rings, blots and rubber stamps, pale enough to read through."""
    small = Image.new("RGB", (max(8, picture.width // 2), max(8, picture.height // 2)), "white")
    draw = ImageDraw.Draw(small)
    for _ in range(dice.between(1, 3)):
        x, y = dice.uniform(0, small.width), dice.uniform(0, small.height)
        radius = dice.uniform(0.05, 0.25) * min(small.size)
        colour = (dice.between(205, 245), dice.between(195, 235), dice.between(170, 225))
        box = (x - radius, y - radius, x + radius, y + radius * dice.uniform(0.8, 1))
        if dice.chance(0.3):
            stamp(dice, draw, x, y, radius)
        elif dice.chance(0.5):
            draw.ellipse(box, outline=colour, width=max(1, round(radius * 0.12)))
        else:
            draw.ellipse(box, fill=colour)
    softened = small.filter(ImageFilter.BoxBlur(2)).resize(picture.size, Image.Resampling.BILINEAR)
    return ImageChops.multiply(picture, softened)


def stamp(dice: Dice, draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    """The print of a rubber stamp: rings or frames about bars that nobody can read."""
    ink = dice.one(((235, 175, 180), (175, 190, 240), (180, 220, 190), (205, 185, 225)))
    high, wide = radius * dice.uniform(0.4, 0.9), max(1, round(radius * 0.06))
    for share in (1.0, 0.85):
        box = (x - radius * share, y - high * share, x + radius * share, y + high * share)
        if high > 0.65 * radius:
            draw.ellipse(box, outline=ink, width=wide)
        else:
            draw.rectangle(box, outline=ink, width=wide)
    for index in range(-1, 2):
        half = radius * dice.uniform(0.2, 0.6)
        draw.line((x - half, y + 0.35 * high * index, x + half, y + 0.35 * high * index), fill=ink, width=2 * wide)


def noisy(dice: Dice, picture: Image.Image, sigma: float) -> Image.Image:
    """Noise from one patch, repeated: as good as fresh noise, and much faster."""
    side = 256
    patch = np.clip(dice.rng.standard_normal((side, side), dtype=np.float32) * sigma + 128, 0, 255).astype(np.uint8)
    rows, columns = -(-picture.height // side), -(-picture.width // side)
    grain = Image.fromarray(np.tile(patch, (rows, columns))[: picture.height, : picture.width])
    return ImageChops.add(picture, Image.merge("RGB", [grain] * 3), 1, -128)


def blur(sigma: float) -> ImageFilter.Kernel:
    """A Gaussian of 3 x 3 pixels: enough for small sigmas, and several times faster than Pillow's own."""
    side = np.exp(-np.array([1, 0, 1]) / (2 * sigma**2))
    return ImageFilter.Kernel((3, 3), np.outer(side, side).ravel().tolist())


def worn(dice: Dice, picture: Image.Image, px: float, clean: float) -> Image.Image:
    """A picture as a camera, a scanner or a screen would give it; `clean`: how often nothing at all is done."""
    if dice.chance(clean):
        return picture
    if dice.chance(0.1):
        picture = stained(dice, picture)
    if dice.chance(0.3):
        picture = picture.filter(blur(dice.uniform(0.25, min(1.1, 0.035 * px))))
    if dice.chance(0.4):
        picture = ImageChops.multiply(picture, Image.merge("RGB", [light(dice, picture.size, dice.chance(0.35))] * 3))
    if dice.chance(0.4):
        picture = noisy(dice, picture, dice.uniform(1, min(12.0, 0.5 * px)))
    if dice.chance(0.3):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=dice.between(40, 94))
        picture = Image.open(buffer).convert("RGB")
    return picture
