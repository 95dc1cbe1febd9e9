"""From a mask of ink to a picture: colours, uneven light, blur, noise, JPEG. Moves nothing, so places stay true."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def colours(rng: np.random.Generator, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Ink and paper, float32 [3] of 0-255: mostly dark on light, at least `contrast` levels of luma apart."""
    while True:
        chance = rng.random()
        if chance < 0.35:
            ink, paper = np.full(3, rng.random() * 40), np.full(3, 255 - rng.random() * 15)
        elif chance < 0.75:
            ink, paper = rng.random(3) * 40 + rng.random() * 80, 255 - rng.random() * 60 - rng.random(3) * 25
        else:
            ink, paper = rng.random(3) * 255, rng.random(3) * 255
        if rng.random() < 0.15:
            ink, paper = paper, ink
        if abs(float((ink - paper) @ LUMA)) >= contrast:
            return ink.astype(np.float32), paper.astype(np.float32)


def unevenness(rng: np.random.Generator, width: int, height: int, strength: float) -> np.ndarray:
    """A smooth random field about 1: float32 [height, width]."""
    rows, columns = 2 + int(rng.random() * 3), 2 + int(rng.random() * 4)
    field = (1 + strength * (rng.random((rows, columns)) - 0.7)).astype(np.float32)
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BILINEAR))


def print_on_paper(rng: np.random.Generator, mask: Image.Image, px: float) -> Image.Image:
    """An RGB picture of the ink `mask` (mode "L", 255 = ink); what is done to it stays readable for letters of `px` pixels."""
    if rng.random() < 0.35:
        mask = mask.filter(ImageFilter.GaussianBlur(float(rng.random() * min(1.3, 0.045 * px))))
    ink, paper = colours(rng, 60 + 500 / px)
    contrast = abs(float((ink - paper) @ LUMA))
    shades = paper + (ink - paper) * np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    width, height = mask.size
    light = unevenness(rng, width, height, 0.35 * float(rng.random())) if rng.random() < 0.35 else None
    noisy = rng.random() < 0.5
    if light is None and not noisy:
        shades = shades.astype(np.uint8)
    pixels = shades[np.asarray(mask)]
    if light is not None:
        pixels *= light[..., None]
    if noisy:
        # Small letters have few pixels to average noise over.
        sigma = float(rng.random()) * min(12.0, contrast * min(0.12, 0.006 * px))
        pixels += rng.standard_normal((height, width, 1), dtype=np.float32) * sigma
    if pixels.dtype != np.uint8:
        pixels = np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if rng.random() < 0.25:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=40 + int(rng.random() * 55))
        picture = Image.open(buffer).convert("RGB")
    return picture
