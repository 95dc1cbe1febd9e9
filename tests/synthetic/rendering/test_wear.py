"""Wear: what is done to a page moves nothing, leaves it readable, and is as strong as it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from PIL import Image

from minimonkey.synthetic import document
from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.rendering import wear
from minimonkey.synthetic.rendering.lines import Placement


class Script(Dice):
    """Dice whose chances come as written; all else is drawn."""

    def __init__(self, chances: Iterable[bool], seed: int = 0) -> None:
        super().__init__(np.random.default_rng(seed))
        self.chances = list(chances)

    def chance(self, share: float) -> bool:
        return self.chances.pop(0) if self.chances else super().chance(share)


def dice(seed: int = 0) -> Dice:
    return Dice(np.random.default_rng(seed))


def page(side: int = 240) -> Image.Image:
    """A white page with a black bar of four pixels, columns 100 to 103."""
    picture = Image.new("RGB", (side, side), "white")
    picture.paste("black", (100, 0, 104, side))
    return picture


def grey(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), np.float32)


@pytest.mark.parametrize("degrees", [-3, 3])
def test_a_page_is_laid_where_its_placement_says(degrees: float) -> None:
    sheet = Image.new("RGB", (200, 100), "white")
    sheet.paste("black", (148, 18, 153, 23))
    place = Placement(math.radians(degrees), 14.0, 12.0, 1)
    shown = grey(wear.laid(sheet, place, (230, 130), (100, 100, 100)))
    (x, y), *_ = place(np.array([[150.5, 20.5]]))
    dark = np.argwhere(shown < 40)
    assert np.abs(dark.mean(axis=0) + 0.5 - (y, x)).max() < 0.5
    assert shown.shape == (130, 230) and shown[0, 0] == shown[-1, -1] == 100, "the desk beyond the page's edges"
    (x, y), *_ = place(np.array([[100.0, 50.0]]))
    assert shown[round(y), round(x)] == 255


def test_a_page_that_lies_straight_is_pasted() -> None:
    sheet = page(120)
    assert wear.laid(sheet, Placement(0.0, 0.0, 0.0, 1), (120, 120), (9, 9, 9)) is sheet
    shown = wear.laid(sheet, Placement(0.0, 7.0, 5.0, 1), (140, 130), (9, 9, 9))
    assert shown.crop((7, 5, 127, 125)).tobytes() == sheet.tobytes() and shown.getpixel((6, 60)) == (9, 9, 9)


def test_light_falls_and_folds_darken() -> None:
    fields = {folded: [grey(wear.light(dice(seed), (400, 300), folded)) for seed in range(8)] for folded in (False, True)}
    for field in (*fields[False], *fields[True]):
        assert field.shape == (300, 400) and 0.44 * 255 <= field.min() and field.max() == 255
    steps = {}
    for folded, made in fields.items():
        steps[folded] = [max(np.abs(np.diff(field, axis=axis)).max() for axis in (0, 1)) for field in made]
    assert max(steps[False]) < 4, "light is smooth"
    assert np.median(steps[True]) > 2 * np.median(steps[False]), "a fold is an edge"


def test_stains_are_pale() -> None:
    darkest = []
    for seed in range(12):
        stained = wear.stained(dice(seed), page())
        assert np.all(np.asarray(stained) <= np.asarray(page())), "they only darken"
        darkest.append(grey(stained)[:, 120:].min())
        assert grey(stained)[:, 101].max() == 0
    assert 150 < min(darkest) < 245 and np.mean(np.array(darkest) < 250) > 0.5


def test_noise_is_as_strong_as_it_says() -> None:
    even = Image.new("RGB", (600, 300), (128, 128, 128))
    for sigma in (2.0, 10.0):
        shown = np.asarray(wear.noisy(dice(), even, sigma), np.float32)
        assert shown.shape == (300, 600, 3)
        assert abs(shown.std() - sigma) < 0.05 * sigma + 0.2 and abs(shown.mean() - 128) < 1
        assert np.all(shown[..., 0] == shown[..., 2])


def test_blur_is_gaussian_and_in_place() -> None:
    even = Image.new("RGB", (9, 9), (77, 150, 200)).filter(wear.blur(1.0))
    assert even.getpixel((4, 4)) == (77, 150, 200)
    dot = Image.new("L", (9, 9))
    dot.putpixel((4, 4), 255)
    weights = {sigma: grey(dot.filter(wear.blur(sigma))) / 255 for sigma in (0.25, 1.0)}
    for sigma, spread in weights.items():
        assert np.array_equal(spread, spread.T) and np.array_equal(spread, spread[::-1, ::-1])
        assert spread[4, 5] / spread[4, 4] == pytest.approx(math.exp(-1 / (2 * sigma**2)), abs=0.03)
    assert weights[0.25][4, 4] > 0.95 and weights[1.0][4, 4] == pytest.approx(0.204, abs=0.01)


WAYS = ("clean", "stain", "blur", "light", "noise", "JPEG")


@pytest.mark.parametrize("way", WAYS)
def test_each_wear_changes_the_page_alone(way: str) -> None:
    """One at a time, the bar stays where it is, dark on light."""
    chances = [way == name for name in WAYS]
    if way in ("light", "stain"):
        chances.insert(WAYS.index(way) + 1, False)  # its own: no fold, no stamp
    picture = page()
    shown = wear.worn(Script(chances, seed=1), picture, 30.0, 0.5)
    assert shown.size == picture.size and shown.mode == "RGB"
    assert (shown is picture) == (way == "clean")
    assert (shown.tobytes() == picture.tobytes()) == (way == "clean")
    profile = grey(shown).mean(axis=0)
    assert np.array_equal(np.sort(np.argsort(profile)[:4]), [100, 101, 102, 103])
    assert profile[110:].min() - profile[100:104].max() > 100


def test_wear_leaves_print_readable() -> None:
    """Of pages worn at random, as many are untouched as asked for, and no bar fades."""
    shown = [wear.worn(dice(seed), page(120), 9.0, 0.3) for seed in range(40)]
    untouched = sum(picture.tobytes() == page(120).tobytes() for picture in shown)
    assert 8 <= untouched <= 24
    for picture in shown:
        profile = grey(picture).mean(axis=0)
        assert np.median(profile) - profile[101:103].max() > 90


def test_documents_are_turned_by_three_degrees_at_most(make: Callable[..., document.Document]) -> None:
    angles = []
    for seed in range(40):
        line = max(make(seed, "page", size_px=(9, 10), lines=(4, 6)).lines, key=lambda line: np.ptp(line.centers[:, 0]))
        across, down = (line.centers[-1] - line.centers[0]).tolist()
        angles.append(abs(math.degrees(math.atan2(down, across))))
    assert max(angles) <= 3.001
    assert max(angles) > 2 and 4 <= sum(angle > 0.1 for angle in angles) <= 24
