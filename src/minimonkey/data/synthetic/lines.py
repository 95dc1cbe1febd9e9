"""Rendered text whose every character has a known place: one line, a short region, or a tile full of text.

    seed --> typeface, size, text --> rows of runs on an endless sheet --> turned, drawn as a mask of ink --> print_on_paper

Lengths are in sheet pixels until the picture is drawn: `scale` (1 or 2) of them make one pixel of the picture.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from minimonkey.data.synthetic.degrade import print_on_paper
from minimonkey.data.synthetic.typefaces import Face, Glyph, Split, Typeface, face, installed
from minimonkey.data.synthetic.words import Vocabulary, Writer, vocabulary
from minimonkey.errors import UsageError

T = TypeVar("T")
Kind = Literal["line", "region", "tile"]
Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""
KINDS: tuple[Kind, ...] = ("line", "region", "tile")
MIDDLE = 0.3
"""How far above the baseline a character's centre is taken to be, in ems: between half an x and half a capital."""


@dataclass(frozen=True)
class Line:
    """One line as a reader would write it down."""

    text: str
    centers: np.ndarray
    """float32 [len(text), 2]: x, y in pixels of the middle of each character's advance, spaces included."""
    box: Box
    """left, top, right, bottom of the ink, in pixels."""


@dataclass(frozen=True)
class Sample:
    """An RGB picture and its lines, from top to bottom."""

    picture: Image.Image
    lines: list[Line]

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True)
class Run:
    """Text set in one piece; x and baseline in sheet pixels."""

    text: str
    face: Face
    x: float
    baseline: float
    glyphs: list[Glyph]
    advances: np.ndarray
    """Where each character begins, right of x, and where the last one ends: float64 [len(text) + 1]."""

    @cached_property
    def edges(self) -> np.ndarray:
        return self.x + self.advances

    @cached_property
    def ink(self) -> Box:
        """left, top, right, bottom of what `draw` paints."""
        glyphs = list(zip(map(round, self.edges.tolist()), self.glyphs, strict=False))
        y = round(self.baseline)
        return (
            min(x + glyph.left for x, glyph in glyphs),
            min(y + glyph.top for _, glyph in glyphs),
            max(x + glyph.left + glyph.ink.shape[1] for x, glyph in glyphs),
            max(y + glyph.top + glyph.ink.shape[0] for _, glyph in glyphs),
        )

    def draw(self, mask: np.ndarray, x: float, y: float) -> None:
        """Paint the run, moved by (x, y), onto a mask of ink: uint8 [height, width]; what falls outside is left out."""
        height, width = mask.shape
        baseline = round(self.baseline + y)
        for pen, (ink, left, top, _) in zip((self.edges + x).tolist(), self.glyphs, strict=False):
            left, top = left + round(pen), top + baseline
            right, bottom = left + ink.shape[1], top + ink.shape[0]
            if right <= 0 or bottom <= 0 or left >= width or top >= height:
                continue
            if left < 0 or top < 0 or right > width or bottom > height:
                ink = ink[max(0, -top) : height - top, max(0, -left) : width - left]
                left, top = max(0, left), max(0, top)
            part = mask[top : top + ink.shape[0], left : left + ink.shape[1]]
            np.maximum(part, ink, out=part)


Row = list[Run]
"""Runs on one baseline, from left to right: read as one line."""


class Compositor:
    """Sets random text in one typeface, row by row. `px` is the em in sheet pixels."""

    def __init__(self, rng: np.random.Generator, writer: Writer, typeface: Typeface, px: float) -> None:
        self.rng, self.writer, self.typeface, self.px = rng, writer, typeface, px
        self.face = self._face(px)
        self.tracking = px * (rng.random() * 0.15 - 0.02) if rng.random() < 0.12 else 0.0

    def _face(self, px: float) -> Face:
        files = self.typeface.files
        return face(files[int(self.rng.random() * len(files))], round(px * 2) / 2)

    def run(self, text: str, x: float, baseline: float, width: float = math.inf) -> Run:
        """Text from `x` on, shortened to `width` (but not to nothing)."""
        glyphs, advances = self.face.set(text)
        if self.tracking:
            advances += self.tracking * np.arange(len(advances))
        if advances[-1] > width:
            text = self.writer.fit(text, max(1, int(np.searchsorted(advances, width)) - 1))
            advances = advances[: len(text) + 1]
        return Run(text, self.face, x, baseline, glyphs[: len(text)], advances)

    def characters(self, width: float) -> int:
        """About how many characters fill `width`."""
        return max(1, round(width / (self.px * 0.5 + self.tracking)))

    def line(self) -> list[Row]:
        limit = 960 * (1 if self.px < 80 else 2)
        length = min(4 * 15 ** self.rng.random(), self.characters(limit))
        return [[self.run(self.writer.phrase(round(length)), 0.0, 0.0, limit)]]

    def rows(self, count: int, width: float, x: float = 0.0, top: float = 0.0) -> list[Row]:
        """`count` rows of a paragraph, a list, items with prices, or keys with values."""
        leading = self.px * (1.1 + 0.5 * self.rng.random())
        layout = self._one("paragraph", "paragraph", "list", "prices", "keys")
        align = self._one(0.0, 0.0, 0.0, 0.5, 1.0)
        fraction = 0.3 + 0.3 * self.rng.random()
        rows = []
        for index in range(count):
            baseline = top + leading * (index + 0.8)
            if layout == "prices":
                rows.append(
                    self._pair(
                        self.writer.phrase(self.characters(width * fraction)), self.writer.price(), x, baseline, width, ends=True
                    )
                )
            elif layout == "keys":
                key = self.writer.phrase(self.characters(width * 0.7 * fraction)).rstrip(":,.; ") + self._one(":", ":", "")
                rows.append(self._pair(key, self.writer.phrase(self.characters(width * 0.5)), x, baseline, width, at=fraction))
            else:
                mark = self._one("• ", "- ", f"{index + 1}. ") if layout == "list" else ""
                share = self._one(0.95, 0.9, 0.5) if layout == "list" or index == count - 1 else 0.95
                text = self.writer.fit(mark + self.writer.phrase(self.characters(width * share * 0.95)))
                run = self.run(text, x, baseline, width)
                slack = width - (run.edges[-1] - x)
                rows.append([replace(run, x=x + align * slack) if layout == "paragraph" else run])
        return rows

    def _pair(self, left: str, right: str, x: float, baseline: float, width: float, at: float = 0.0, ends: bool = False) -> Row:
        """Two runs with a gap between: the second one ends at the right edge, or begins at a fraction of the width."""
        gap = 1.5 * self.px
        right = self.writer.fit(right)
        second = self.run(right, 0.0, baseline, width * 0.6)
        start = width - second.edges[-1] if ends else width * at
        first = self.run(left, x, baseline, max(self.px, start - gap))
        start = max(x + start, first.edges[-1] + gap)
        return [first, replace(second, x=start)]

    def _one(self, *choices: T) -> T:
        return choices[int(self.rng.random() * len(choices))]

    def page(self, width: float, height: float) -> list[Row]:
        """Blocks of rows that cover width x height and run over its edges."""
        rows: list[Row] = []
        top = -self.px * self.rng.random()
        while top < height:
            count = 1 + int(self.rng.random() * min(max(3.0, height / self.px * 0.7), (height - top) / (1.1 * self.px) + 1))
            left = width * (self._one(-0.1, -0.05, 0.0, 0.04) + 0.04 * self.rng.random())
            block = self.rows(count, width * self._one(0.9, 1.0, 1.1, 1.15), left, top)
            rows += block
            top = block[-1][0].baseline + self.px * (0.3 + self.rng.random() ** 2)
        return rows


@dataclass(frozen=True)
class Placement:
    """Sheet to picture: turned by `angle` (radians), moved by (x, y) sheet pixels, divided by `scale`."""

    angle: float
    x: float
    y: float
    scale: int

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Sheet [n, 2] to picture [n, 2]."""
        return (points @ self._turn().T + (self.x, self.y)) / self.scale

    def _turn(self) -> np.ndarray:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])

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
            (a, b), (d, e) = self._turn().T
            c, f = self._turn().T @ (-self.x, -self.y) - (left, top)
            mask = sheet.transform((width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)
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


def read_row(row: Row, place: Placement) -> Line:
    """The label of a row: runs joined by one space, which stands in the middle of the gap."""
    edges = [run.edges for run in row]
    xs = [(edges[0][:-1] + edges[0][1:]) / 2]
    for before, after in zip(edges, edges[1:], strict=False):
        xs += [np.array([(before[-1] + after[0]) / 2]), (after[:-1] + after[1:]) / 2]
    x = np.concatenate(xs)
    centers = place(np.stack((x, np.full_like(x, row[0].baseline - MIDDLE * row[0].face.px)), axis=1))
    inks = np.array([run.ink for run in row])
    left, top, right, bottom = *inks[:, :2].min(axis=0), *inks[:, 2:].max(axis=0)
    corners = place(np.array([[left, top], [right, top], [left, bottom], [right, bottom]]))
    box = tuple(map(float, (*corners.min(axis=0), *corners.max(axis=0))))
    return Line(" ".join(run.text for run in row), centers.astype(np.float32), box)  # type: ignore[arg-type]


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
    return Line("".join(line.text[index] for index in kept), line.centers[kept], box)


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
    inks = np.array([run.ink for row in rows for run in row])
    pad = px * (0.25 + 0.3 * rng.random())
    left, top, right, bottom = *(inks[:, :2].min(axis=0) - pad), *(inks[:, 2:].max(axis=0) + pad)
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
    boxes = np.array([run.ink for row in rows for run in row] + rules)
    corners = np.concatenate([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [0, 3]], boxes[:, [2, 3]]])
    turned = Placement(angle, 0.0, 0.0, 1)(corners)
    low, high = turned.min(axis=0), turned.max(axis=0)
    px = rows[0][0].face.px
    margins = 2 * scale + px * np.array([0.9, 0.5, 0.9, 0.5]) * rng.random(4) ** 2
    width, height = (math.ceil(extent / scale) for extent in high - low + margins[:2] + margins[2:])
    return Placement(angle, *(margins[:2] - low), scale), (width, height)


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
    """A picture of random text, the same for the same arguments everywhere (given the same fonts, word lists and Pillow).

    Args:
        kind: "line" is one line cropped with small margins (at most about 1,000 pixels wide), "region" two to eight lines (about
            150-700 pixels wide), "tile" a square of `tile_px` full of text that runs over its edges; characters whose centre is
            outside are not in the labels.
        size_px: smallest and largest em in pixels; drawn log-uniformly, or uniformly with `uniform`.
        typefaces, words: default to all installed ones of the split.

    Raises:
        UsageError: an unknown kind, or a wrong size range.
        DataError: fonts or word lists are not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of sample {kind!r}: expected one of {', '.join(KINDS)}")
    low, high = size_px
    if not 4 <= low <= high:
        raise UsageError(f"size_px is {size_px}: expected (smallest, largest) with 4 <= smallest <= largest")
    rng = np.random.default_rng([seed, zlib.crc32(f"{kind} {split}".encode())])
    typefaces = installed(split) if typefaces is None else typefaces
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
        rows = compositor.line() if kind == "line" else compositor.rows(2 + int(rng.random() * 7), width)
        rules = draw_rules(rng, rows)
        place, size = frame(rng, rows, rules, angle, scale)
    picture = print_on_paper(rng, place.draw(rows, rules, size), px)
    lines = [read_row(row, place) for row in rows]
    if kind == "tile":
        lines = [kept for line in lines if (kept := cut(line, tile_px)) is not None]
    return Sample(picture, lines)
