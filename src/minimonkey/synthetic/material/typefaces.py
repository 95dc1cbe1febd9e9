"""The typefaces that synthetic text is set in: a catalogue of Debian's fonts, and loaded fonts by path and size.

Typefaces are split by family; clones and metric siblings (Liberation and Nimbus, Lato and Carlito) stand on one side. A few files
of twenty families come with minimonkey (fonts/, with their licences); the others are used where their packages are installed.

The catalogue was made from Debian 12's packages: families with digits, both cases and common punctuation; no thin weights, capitals
only, handwriting, initials or outlines. Each was looked at. It lists as lacking what is empty, drawn as .notdef, drawn as another
letter, or (in training) drawn exactly as a commoner character.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import ImageFont

from minimonkey.errors import DataError

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Typeface:
    """One family: its font files (regular, bold, italic ...; "" is Pillow's built-in font) and the characters it `lacks`."""

    family: str
    packages: tuple[str, ...]
    licence: str
    split: Split
    files: tuple[str, ...]
    lacks: str = ""


PILLOW = Typeface(
    "Aileron",
    ("pillow",),
    "CC0-1.0",
    "train",
    ("",),
    lacks="àâäáãåçéèêëíìîïñóòôöõøúùûüßæœÿÀÂÄÁÃÅÇÉÈÊËÍÌÎÏÑÓÒÔÖÕØÚÙÛÜÆŒŸ€£¥§–—¿¡®•×²³½",
)
"""The font inside Pillow, which lacks letters with accents: for tests, in which one typeface is enough."""


class Glyph(NamedTuple):
    """A drawn character: ink uint8 [height, width], its place right of the pen and below the baseline, its advance."""

    ink: np.ndarray
    left: int
    top: int
    advance: float


class Face:
    """A font file at one size, with the glyphs and kerning that it has been asked for.

    Characters are drawn once and placed by us: that is several times faster than drawing lines of text, and each has a known place.
    """

    def __init__(self, path: str, px: float) -> None:
        self.px = px
        # Basic layout: the same with and without libraqm.
        if path:
            self.font = ImageFont.truetype(path, px, layout_engine=ImageFont.Layout.BASIC)
        else:
            built_in = ImageFont.load_default(px)
            assert isinstance(built_in, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
            self.font = built_in.font_variant(layout_engine=ImageFont.Layout.BASIC)
        self._glyphs: dict[str, Glyph] = {}
        self._kerns: dict[str, float] | None = {}
        if not any(self.kern(pair) for pair in ("AV", "To")):
            self._kerns = None

    def glyph(self, character: str) -> Glyph:
        glyph = self._glyphs.get(character)
        if glyph is None:
            mask, (left, top) = self.font.getmask2(character, mode="L", anchor="ls")
            ink = np.frombuffer(bytes(mask), dtype=np.uint8).reshape(mask.size[::-1])
            glyph = self._glyphs[character] = Glyph(ink, left, top, self.font.getlength(character))
        return glyph

    @cached_property
    def x_height_px(self) -> float:
        """The height of a drawn "x"; rows of pixels that it fills in part count in part."""
        rows = self.glyph("x").ink.max(axis=1).astype(float)
        return float(rows.sum() / rows.max())

    def kern(self, pair: str) -> float:
        """How much wider than its two advances a pair of characters is set, in pixels (mostly 0 or negative)."""
        if self._kerns is None:
            return 0.0
        kern = self._kerns.get(pair)
        if kern is None:
            kern = self._kerns[pair] = self.font.getlength(pair) - self.glyph(pair[0]).advance - self.glyph(pair[1]).advance
        return kern

    def set(self, text: str) -> tuple[list[Glyph], np.ndarray]:
        """The glyphs of a text, and where each one's advance begins and the last one's ends: float64 [len(text) + 1] (pixels)."""
        glyphs = [self.glyph(character) for character in text]
        steps = [0.0, *(glyph.advance for glyph in glyphs)]
        if self._kerns is not None:
            for index in range(1, len(text)):
                steps[index] += self.kern(text[index - 1 : index + 1])
        return glyphs, np.cumsum(steps)


@lru_cache(maxsize=768)
def face(path: str, px: float) -> Face:
    """The font file at `path` with an em of `px` pixels.

    Raises:
        DataError: the file is missing or no font.
    """
    try:
        return Face(path, px)
    except OSError as error:
        raise DataError(f"can't load the font {path}: {error}; install its packages (synthetic/material/typefaces.json)") from error


@lru_cache(maxsize=1)
def catalogue() -> tuple[Typeface, ...]:
    """All typefaces of typefaces.json, sorted by family."""
    rows = json.loads(files(__package__).joinpath("typefaces.json").read_text("utf-8"))
    return tuple(Typeface(**{**row, "files": tuple(row["files"]), "packages": tuple(row["packages"])}) for row in rows)


@lru_cache(maxsize=2)
def packaged(split: Split) -> tuple[Typeface, ...]:
    """The typefaces of a split that come with minimonkey: those of the catalogue of which files lie in fonts/, with these files."""
    ours = {path.name: str(path) for path in Path(str(files(__package__).joinpath("fonts"))).iterdir()}
    chosen = (replace(each, files=tuple(ours[name] for name in _names(each) if name in ours)) for each in catalogue())
    return tuple(typeface for typeface in chosen if typeface.split == split and typeface.files)


@lru_cache(maxsize=2)
def available(split: Split) -> tuple[Typeface, ...]:
    """The typefaces of a split that are there: each with its installed files, or else with those that come with minimonkey.

    Where all of the catalogue is installed it is just that. What a seed means depends on what is there.
    """
    ours = {typeface.family: typeface for typeface in packaged(split)}
    of_split = (typeface for typeface in catalogue() if typeface.split == split)
    there = (replace(each, files=tuple(filter(os.path.exists, each.files))) for each in of_split)
    chosen = (typeface if typeface.files else ours.get(typeface.family) for typeface in there)
    return tuple(typeface for typeface in chosen if typeface is not None)


def incomplete(split: Split) -> list[Typeface]:
    """The typefaces of a split of which files aren't installed."""
    return [each for each in catalogue() if each.split == split and not all(map(os.path.exists, each.files))]


def _names(typeface: Typeface) -> list[str]:
    return [os.path.basename(file) for file in typeface.files]


def lacking(font: ImageFont.FreeTypeFont, characters: Iterable[str]) -> str:
    """The characters that `font` has no glyph for, told by the .notdef box or an empty picture."""

    def glyph(character: str) -> tuple[tuple[int, int], bytes]:
        mask = font.getmask(character)
        return mask.size, bytes(mask)

    nothing = glyph("\uffff")
    return "".join(c for c in characters if c != " " and ((drawn := glyph(c)) == nothing or 0 in drawn[0] or not any(drawn[1])))
