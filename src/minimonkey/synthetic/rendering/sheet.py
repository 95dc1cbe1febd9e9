"""A coloured sheet: shapes below, printed rows above, painted at once and laid into a picture, turned a little if asked.

Lengths are in pixels of the sheet, which are those of the picture; places of characters follow from `Placement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from minimonkey.synthetic.material.facts import Passage
from minimonkey.synthetic.material.typefaces import Face
from minimonkey.synthetic.rendering.lines import Line, Placement, corners, read_row
from minimonkey.synthetic.rendering.typesetting import Box, Row, Run, bounds

Colour = tuple[int, int, int]
ALONE = -1
"""The column of a row that has no neighbours in reading order: labels of a chart, buttons, cells that stand apart."""


@dataclass(frozen=True)
class Pen:
    """A font at one size in one colour. `clean` is what the typeface lacks, and what stands for it."""

    face: Face
    ink: Colour
    clean: dict[int, str]
    tracking: float = 0.0

    @property
    def px(self) -> float:
        return self.face.px

    def tinted(self, ink: Colour) -> Pen:
        return replace(self, ink=ink)

    def printable(self, text: str) -> str:
        """`text` as this pen writes it: single-spaced, without what the typeface lacks; a dash if nothing is left."""
        return " ".join(text.translate(self.clean).split()) or "-"

    def advances(self, text: str) -> np.ndarray:
        advances = self.face.set(text)[1]
        return advances + self.tracking * np.arange(len(advances)) if self.tracking else advances

    def width(self, text: str) -> float:
        return float(self.advances(self.printable(text))[-1])

    def run(self, text: str, x: float, baseline: float, align: float = 0.0, width: float = math.inf) -> Run:
        """Text that begins (align 0), is centred (0.5) or ends (1) at x; cut to `width`, after a word if possible."""
        text = self.printable(text)
        glyphs, advances = self.face.set(text)
        if self.tracking:
            advances = advances + self.tracking * np.arange(len(advances))
        if advances[-1] > width + 0.5:
            count = max(1, int(np.searchsorted(advances, width, side="right")) - 1)
            cut = text.rfind(" ", count // 2 + 1, count + 1)
            text = text[: cut if cut > 0 else count].rstrip() or text[:1]
            glyphs, advances = glyphs[: len(text)], advances[: len(text) + 1]
        return Run(text, self.face, x - align * float(advances[-1]), baseline, glyphs, advances)

    def wrap(self, text: str, width: float, most: int, indent: float = 0.0) -> list[str]:
        """Text in rows of at most `width`, the first one `indent` less, at most `most` of them; the rest is left out."""
        text = self.printable(text)
        advances = self.advances(text)
        rows: list[str] = []
        start = 0
        while start < len(text) and len(rows) < most:
            room = width if rows else width - indent
            end = int(np.searchsorted(advances, advances[start] + room, side="right")) - 1
            if end < len(text):
                cut = text.rfind(" ", start + 1, end + 1)
                end = cut if cut > 0 else max(end, start + 1)
            rows.append(text[start:end].strip())
            start = end + (text[end : end + 1] == " ")
        return rows


def stretched(run: Run, width: float) -> Run:
    """The run with its spaces widened to fill `width`, as in justified text; as it is where they'd be too wide."""
    spaces = np.cumsum([0, *(character == " " for character in run.text)])
    slack = width - float(run.advances[-1])
    if not spaces[-1] or not 0 < slack < 0.3 * width:
        return run
    return replace(run, advances=run.advances + spaces * (slack / int(spaces[-1])))


class Sheet:
    """What is printed where. Rows are written in reading order."""

    def __init__(self, width: float = 0.0) -> None:
        self.width, self.height = width, 0.0
        self.rows: list[Row] = []
        self.columns: list[int] = []
        """Of each row, the column that it belongs to: 0 is the whole sheet, ALONE none."""
        self._runs: dict[Colour, list[Run]] = {}
        self._shapes: list[Callable[[ImageDraw.ImageDraw], object]] = []

    def write(self, inked: list[tuple[Run, Colour]], column: int = 0) -> int:
        """A row of runs from left to right, and its number."""
        for run, ink in inked:
            self._runs.setdefault(ink, []).append(run)
        self.rows.append([run for run, _ in inked])
        self.columns.append(column)
        return len(self.rows) - 1

    def text(self, line: int) -> str:
        return " ".join(run.text for run in self.rows[line])

    def text_of(self, line: int, run: int) -> str:
        return self.rows[line][run].text

    def passage(self, line: int, run: int = 0, last: int | None = None) -> Passage:
        """Where a run of a row (up to the run `last`) stands in the row's text."""
        row = self.rows[line]
        start = sum(len(before.text) + 1 for before in row[:run])
        return Passage(line, start, start + len(" ".join(part.text for part in row[run : (run if last is None else last) + 1])))

    def draw(self, shape: Callable[[ImageDraw.ImageDraw], object]) -> None:
        """Anything that Pillow's ImageDraw can draw, below all text."""
        self._shapes.append(shape)

    def fill(self, box: Box, colour: Colour | None, outline: Colour | None = None, thickness: float = 1, radius: float = 0) -> None:
        """A rectangle, filled (if there is a colour) and outlined (if there is another)."""
        left, top, right, bottom = map(round, box)
        if right <= left or bottom <= top:
            return
        pens = max(1, round(thickness))
        if radius >= 1:
            self.draw(lambda draw: draw.rounded_rectangle((left, top, right, bottom), radius, colour, outline, pens))
        else:
            self.draw(lambda draw: draw.rectangle((left, top, right, bottom), colour, outline, pens))

    def rule(self, left: float, right: float, y: float, colour: Colour, thickness: float = 1, dash: float = 0) -> None:
        """A level line, whole, or of dashes and gaps of `dash` pixels."""
        top, bottom = round(y), round(y + max(1.0, thickness) - 1)
        dash = max(dash, 1.0) if dash else right - left
        starts = np.arange(left, max(left + 1, right - dash), 2 * max(dash, 1.5)).tolist()
        boxes = [(round(x), top, max(round(x), round(x + dash - 1)), bottom) for x in starts]
        for box in boxes:
            self.draw(partial(ImageDraw.ImageDraw.rectangle, xy=box, fill=colour))

    def ink(self) -> Box:
        """The smallest box about all that is printed."""
        left, top, right, bottom = zip(*(bounds(row) for row in self.rows), strict=True)
        return min(left), min(top), max(right), max(bottom)

    def lines(self, place: Placement) -> list[Line]:
        return [read_row(row, place) for row in self.rows]

    def box(self, passage: Passage, place: Placement) -> Box:
        """left, top, right, bottom of the ink of some characters, in pixels of the picture."""
        boxes, start = [], 0
        for run in self.rows[passage.line]:
            first, last = max(0, passage.start - start), min(len(run.text), passage.end - start)
            if first < last and run.text[first:last].strip():
                part = Run(
                    run.text[first:last], run.face, run.x, run.baseline, run.glyphs[first:last], run.advances[first : last + 1]
                )
                boxes.append(part.ink)
            start += len(run.text) + 1
        turned = place(corners(boxes))
        (left, top), (right, bottom) = turned.min(axis=0).tolist(), turned.max(axis=0).tolist()
        return left, top, right, bottom

    def paint(self, paper: Colour) -> Image.Image:
        """The sheet itself, RGB, unturned."""
        size = (math.ceil(self.width), math.ceil(self.height))
        picture = Image.new("RGB", size, paper)
        draw = ImageDraw.Draw(picture)
        for shape in self._shapes:
            shape(draw)
        for ink, runs in self._runs.items():
            left, top, right, bottom = bounds(runs)
            left, top, right, bottom = max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)
            mask = np.zeros((max(0, int(bottom - top)), max(0, int(right - left))), dtype=np.uint8)
            for run in runs:
                run.draw(mask, -left, -top)
            picture.paste(ink, (int(left), int(top)), Image.fromarray(mask))
        return picture

    def placed(self, angle: float, margin: float = 3.0) -> tuple[Placement, tuple[int, int]]:
        """Turned about its middle: the placement, and the size (width, height) of a picture that holds all print."""
        left, top, right, bottom = self.ink()
        middle = np.array([self.width / 2, self.height / 2])
        offset = middle - Placement(angle, 0.0, 0.0, 1)(middle[None])[0]
        turned = Placement(angle, float(offset[0]), float(offset[1]), 1)(corners([(left, top, right, bottom)]))
        low = np.minimum(0, np.floor(turned.min(axis=0) - margin))
        high = np.maximum((self.width, self.height), turned.max(axis=0) + margin)
        x, y = (offset - low).tolist()
        width, height = np.ceil(high - low).astype(int).tolist()
        return Placement(angle, x, y, 1), (width, height)
