"""Rendered text whose every character has a known place: one line, a short region, or a tile full of text.

    seed --> typeface, size, text --> rows of runs on an endless sheet --> turned, drawn as a mask of ink --> print_on_paper

Lengths are in sheet pixels until the picture is drawn: `scale` (1 or 2) of them make one pixel of the picture.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from minimonkey.errors import UsageError
from minimonkey.synthetic.material.typefaces import Split, Typeface, available
from minimonkey.synthetic.material.words import Vocabulary, Writer, vocabulary
from minimonkey.synthetic.rendering.degrade import print_on_paper
from minimonkey.synthetic.rendering.typesetting import Box, Compositor, Row, bounds

Kind = Literal["line", "long_line", "region", "tile"]
KINDS: tuple[Kind, ...] = ("line", "long_line", "region", "tile")
MIDDLE = 0.3
"""How far above the baseline a character's centre is taken to be, in ems: between half an x and half a capital."""


@dataclass(frozen=True)
class Line:
    """One line as a reader would write it down."""

    text: str
    centers: np.ndarray
    """float32 [len(text), 2]: x, y in pixels of the middle of each character's advance, spaces included."""
    edges: np.ndarray
    """float32 [len(text), 2]: where each character's advance begins and ends, in pixels from left to right."""
    em_px: float
    """The size of the print."""
    box: Box
    """left, top, right, bottom of the ink, in pixels."""
    x_height_px: float = 0.0
    """The height of a drawn "x": what can be read depends on it more than on the em. 0 where unknown."""


@dataclass(frozen=True)
class Sample:
    """An RGB picture and its lines, from top to bottom."""

    picture: Image.Image
    lines: list[Line]

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True)
class Placement:
    """Sheet to picture: turned by `angle` (radians), moved by (x, y) sheet pixels, divided by `scale`."""

    angle: float
    x: float
    y: float
    scale: int

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Sheet [n, 2] to picture [n, 2]."""
        moved: np.ndarray = points @ self._turn().T + (self.x, self.y)
        return moved / self.scale

    def _turn(self) -> np.ndarray:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])

    def back(self, left: float = 0.0, top: float = 0.0) -> tuple[float, ...]:
        """Picture to a drawn sheet whose corner is (left, top), in sheet pixels, as Pillow's affine transformation takes it."""
        (a, b), (d, e) = self._turn().T
        c, f = self._turn().T @ (-self.x, -self.y) - (left, top)
        return (a, b, c, d, e, f)

    def draw(self, rows: list[Row], rules: list[Box], size: tuple[int, int]) -> Image.Image:
        """The mask of ink of a picture of `size` (width, height): mode "L", 255 = ink."""
        width, height = size[0] * self.scale, size[1] * self.scale
        if not self.angle:
            mask = self._ink((width, height), rows, rules, self.x, self.y)
        else:
            corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) - (self.x, self.y)
            sheet_corners = corners @ self._turn()
            left, top = np.floor(sheet_corners.min(axis=0)) - 1
            right, bottom = np.ceil(sheet_corners.max(axis=0)) + 1
            sheet = self._ink((int(right - left), int(bottom - top)), rows, rules, -left, -top)
            mask = sheet.transform((width, height), Image.Transform.AFFINE, self.back(left, top), Image.Resampling.BILINEAR)
        return mask.reduce(self.scale) if self.scale > 1 else mask

    @staticmethod
    def _ink(size: tuple[int, int], rows: list[Row], rules: list[Box], x: float, y: float) -> Image.Image:
        mask = np.zeros(size[::-1], dtype=np.uint8)
        for left, top, right, bottom in np.round(np.array(rules).reshape(-1, 4) + (x, y, x, y)).astype(int).tolist():
            mask[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = 170
        for row in rows:
            for run in row:
                run.draw(mask, x, y)
        return Image.fromarray(mask)


def corners(boxes: list[Box]) -> np.ndarray:
    """The four corners of each of n boxes: float64 [4 n, 2]."""
    return np.array(boxes)[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 2)


def read_row(row: Row, place: Placement) -> Line:
    """The label of a row: runs joined by one space, which stands in the middle of the gap."""
    marks = np.concatenate([run.edges for run in row])  # between two runs: the end of one, the beginning of the next
    edges = np.stack((marks[:-1], marks[1:]), axis=1)
    middle = np.full(len(edges), row[0].baseline - MIDDLE * row[0].face.px)
    centers, starts, ends = (place(np.stack((x, middle), axis=1)) for x in (edges.mean(axis=1), edges[:, 0], edges[:, 1]))
    turned = place(corners([run.ink for run in row]))
    (left, top), (right, bottom) = turned.min(axis=0).tolist(), turned.max(axis=0).tolist()
    advances = np.stack((starts[:, 0], ends[:, 0]), axis=1).astype(np.float32)
    text = " ".join(run.text for run in row)
    x_height = row[0].face.x_height_px / place.scale
    return Line(text, centers.astype(np.float32), advances, row[0].face.px / place.scale, (left, top, right, bottom), x_height)


def cut(line: Line, side: int) -> Line | None:
    """What is left of a line within a square of `side`: characters whose centre is inside. None if only spaces are."""
    inside = ((line.centers >= 0) & (line.centers < side)).all(axis=1)
    kept = np.flatnonzero(inside).tolist()
    while kept and line.text[kept[-1]] == " ":
        kept.pop()
    while kept and line.text[kept[0]] == " ":
        kept.pop(0)
    if not kept:
        return None
    left, top, right, bottom = line.box
    box = (max(0.0, left), max(0.0, top), min(float(side), right), min(float(side), bottom))
    return Line(
        "".join(line.text[index] for index in kept), line.centers[kept], line.edges[kept], line.em_px, box, line.x_height_px
    )


def draw_rules(rng: np.random.Generator, rows: list[Row]) -> list[Box]:
    """Underlines, or a box about all rows, as filled rectangles (left, top, right, bottom) on the sheet. Mostly none."""
    chance = rng.random()
    if chance >= 0.12:
        return []
    px = rows[0][0].face.px
    thickness = max(0.0, px / 16 * rng.random())
    if chance < 0.08:
        drop = px * (0.22 + 0.1 * rng.random())
        return [
            (row[0].x, row[0].baseline + drop, row[-1].edges[-1], row[0].baseline + drop + thickness)
            for row in rows
            if rng.random() < 0.6
        ]
    pad = px * (0.25 + 0.3 * rng.random())
    left, top, right, bottom = (
        edge + way * pad for edge, way in zip(bounds([run for row in rows for run in row]), (-1, -1, 1, 1), strict=True)
    )
    return [
        (left, top, right, top + thickness),
        (left, bottom, right, bottom + thickness),
        (left, top, left + thickness, bottom),
        (right, top, right + thickness, bottom),
    ]


def frame(
    rng: np.random.Generator, rows: list[Row], rules: list[Box], angle: float, scale: int
) -> tuple[Placement, tuple[int, int]]:
    """A placement and a picture (width, height) that hold all ink with random margins."""
    turned = Placement(angle, 0.0, 0.0, 1)(corners([run.ink for row in rows for run in row] + rules))
    low, high = turned.min(axis=0), turned.max(axis=0)
    px = rows[0][0].face.px
    margins = 2 * scale + px * np.array([0.9, 0.5, 0.9, 0.5]) * rng.random(4) ** 2
    width, height = (math.ceil(extent / scale) for extent in high - low + margins[:2] + margins[2:])
    x, y = (margins[:2] - low).tolist()
    return Placement(angle, x, y, scale), (width, height)


def make_sample(
    seed: int,
    kind: Kind,
    *,
    split: Split = "train",
    size_px: tuple[float, float] = (9, 40),
    uniform: bool = False,
    tile_px: int = 224,
    typefaces: Sequence[Typeface] | None = None,
    words: Vocabulary | None = None,
) -> Sample:
    """A picture of random text, the same for the same arguments (given the same typefaces, words and Pillow).

    Args:
        kind: "line" is one line cropped with small margins (at most about 1,000 pixels wide), "long_line" one of 40-110 characters
            (at most about 2,000 pixels wide), "region" two to eight lines (about 150-700 pixels wide), "tile" a square of
            `tile_px` full of text that runs over its edges; characters whose centre is outside are not in the labels.
        size_px: smallest and largest em in pixels; drawn log-uniformly, or uniformly with `uniform`.
        typefaces, words: default to whatever of the split is there (material.py).

    Raises:
        UsageError: an unknown kind, or a wrong size range.
        DataError: a font or an installed text is broken.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of sample {kind!r}: expected one of {', '.join(KINDS)}")
    low, high = size_px
    if not 4 <= low <= high:
        raise UsageError(f"size_px is {size_px}: expected (smallest, largest) with 4 <= smallest <= largest")
    rng = np.random.default_rng([seed, zlib.crc32(f"{kind} {split}".encode())])
    typefaces = available(split) if typefaces is None else typefaces
    typeface = typefaces[int(rng.random() * len(typefaces))]
    px = low + (high - low) * rng.random() if uniform else low * (high / low) ** rng.random()
    scale = 2 if rng.random() < 0.4 else 1
    angle = math.radians(rng.random() * 4 - 2) if rng.random() < 0.35 else 0.0
    writer = Writer(rng, vocabulary(split) if words is None else words, typeface.lacks)
    compositor = Compositor(rng, writer, typeface, px * scale)
    if kind == "tile":
        side = tile_px * scale
        rows = compositor.page(side, side)
        place, size = Placement(angle, float(rng.random()), float(rng.random()), scale), (tile_px, tile_px)
        rules = draw_rules(rng, rows)
    else:
        width = scale * min(700.0, max(150 * (700 / 150) ** rng.random(), 8 * px))
        if kind == "region":
            rows = compositor.rows(2 + int(rng.random() * 7), width)
        else:
            rows = compositor.line() if kind == "line" else compositor.long_line()
        rules = draw_rules(rng, rows)
        place, size = frame(rng, rows, rules, angle, scale)
    picture = print_on_paper(rng, place.draw(rows, rules, size), px)
    lines = [read_row(row, place) for row in rows]
    if kind == "tile":
        lines = [kept for line in lines if (kept := cut(line, tile_px)) is not None]
    return Sample(picture, lines)
