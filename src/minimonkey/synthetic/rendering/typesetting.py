"""Typesetting: random text set in one typeface, as runs of placed glyphs. Nothing is drawn here before `Run.draw` is asked to.

Lengths are in pixels of an endless sheet, x to the right and y downwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from minimonkey.synthetic.material.typefaces import Face, Glyph, Typeface, face
from minimonkey.synthetic.material.words import Writer

T = TypeVar("T")
LONGEST = 960
"""Width of a lone line at most."""
LONGEST_LONG_LINE = 1900
"""The same of a long one."""
Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""


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


def bounds(runs: Row) -> Box:
    """The smallest box about the ink of runs."""
    left, top, right, bottom = zip(*(run.ink for run in runs), strict=True)
    return min(left), min(top), max(right), max(bottom)


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
        """Text from `x` on, shortened to `width` (but not to nothing: a dash stands for text of which nothing was left)."""
        text = text or "-"
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
        """One row of 4 to 60 characters, short ones as often as long ones."""
        length = min(4 * 15 ** self.rng.random(), self.characters(LONGEST))
        return [[self.run(self.writer.phrase(round(length)), 0.0, 0.0, LONGEST)]]

    def long_line(self) -> list[Row]:
        """One row of 40 to 110 characters: text, or, one in four, something like source code."""
        length = min(40 + int(71 * self.rng.random()), self.characters(LONGEST_LONG_LINE))
        write = self.writer.program if self.rng.random() < 0.25 else self.writer.phrase
        return [[self.run(write(length), 0.0, 0.0, LONGEST_LONG_LINE)]]

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
