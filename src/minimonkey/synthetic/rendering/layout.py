"""A column of a sheet that is filled from top to bottom: lines, pairs, paragraphs, parts side by side, and what they mean.

Each kind of document (receipts.py, forms.py ...) is a function that writes on a `Layout` and notes its facts as it goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from minimonkey.synthetic.material.content import Author
from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.material.facts import Facts, Field, Passage, Region
from minimonkey.synthetic.material.wordings import labels
from minimonkey.synthetic.rendering.sheet import Colour, Pen, Sheet, stretched
from minimonkey.synthetic.rendering.style import Style, mix


class Cell(NamedTuple):
    """Text that begins, is centred or ends (align 0, 0.5, 1) at x, cut to `width`."""

    text: str
    pen: Pen
    x: float
    align: float = 0.0
    width: float = math.inf


@dataclass
class Layout:
    """Writes downwards from `y` between `left` and `right`."""

    dice: Dice
    author: Author
    style: Style
    sheet: Sheet
    facts: Facts
    family: str
    """The layout family that was drawn for this document."""
    limit: float
    """The longest side that the document may have, in pixels."""
    left: float = 0.0
    right: float = 0.0
    y: float = 0.0
    column: int = 0
    mark: str = ":"
    """What follows a label."""
    capitals: bool = False
    """Whether labels are in capitals."""

    @property
    def px(self) -> float:
        return self.style.body.px

    @property
    def width(self) -> float:
        return self.right - self.left

    def open(self, width: float, margin: float, least: float = 120.0) -> None:
        """Begin a sheet of a width, with margins left, right and above."""
        self.sheet.width = float(round(min(self.limit, max(least, width + 2 * margin))))
        self.left, self.right, self.y = margin, self.sheet.width - margin, margin
        self.mark = self.dice.one((":", ":", ":", "", "", " :" if self.author.language == "fr" else ":"))
        self.capitals = self.dice.chance(0.15)

    def close(self, margin: float, least: float = 0.0) -> None:
        """End the sheet below what is written, at least `least` pixels high."""
        self.sheet.height = float(math.ceil(max(self.y + margin, least)))

    def space(self, ems: float) -> None:
        self.y += ems * self.px

    def label(self, key: str, room: float = math.inf) -> str:
        """What is printed for a field, within `room` if there is such a name; the same isn't used for two fields."""
        used = {field.label.casefold() for field in self.facts.fields}
        choices = labels(key, self.author.language)
        fresh = [choice for choice in choices if choice.casefold() not in used] or choices
        fresh = [choice.upper() for choice in fresh] if self.capitals else fresh
        text = self.dice.one(fresh)
        width = self.style.strong.width
        return text if width(text) <= room else min(fresh, key=width)

    def marked(self, label: str) -> str:
        return label if label.endswith((":", "#")) else label + self.mark

    def line(self, *cells: Cell, leading: float | None = None, stretch: bool = False) -> int:
        """One row of cells from left to right, perhaps with their spaces stretched to the cells' widths; its number."""
        px = max(cell.pen.px for cell in cells)
        step = px * (leading or self.style.leading)
        baseline = self.y + 0.5 * step + 0.34 * px
        row = []
        for text, pen, x, align, width in cells:
            room = (self.right - x, 2 * min(x - self.left, self.right - x), x - self.left)[round(align * 2)]
            width = max(pen.px, min(width, room))
            run = pen.run(text, x, baseline, align, width)
            row.append((stretched(run, width) if stretch else run, pen.ink))
        self.y += step
        return self.sheet.write(row, self.column)

    def text(self, text: str, pen: Pen | None = None, align: float = 0.0, leading: float | None = None) -> int:
        """A row of its own, cut to the column."""
        return self.line(Cell(text, pen or self.style.body, self.left + align * self.width, align, self.width), leading=leading)

    def paragraph(
        self,
        text: str,
        pen: Pen | None = None,
        most: int = 99,
        align: float = 0.0,
        justified: bool = False,
        indent: float = 0.0,
    ) -> tuple[int, int]:
        """Rows of running text, the first one `indent` pixels further right; the first and the last one's number."""
        pen = pen or self.style.body
        rows = pen.wrap(text, self.width, most, indent)
        numbers = []
        for index, row in enumerate(rows):
            inward = 0.0 if index else indent
            cell = Cell(row, pen, self.left + inward + align * (self.width - inward), align, self.width - inward)
            numbers.append(self.line(cell, stretch=justified and index < len(rows) - 1))
        return numbers[0], numbers[-1]

    def pair(
        self, label: str, value: str, at: float | None = None, pens: tuple[Pen, Pen] | None = None, leader: float = 0.0
    ) -> int:
        """A label and its value: beside it (`at` 0), from x = `at` on, or ending at the right edge (None)."""
        first, second = pens or (self.style.body, self.style.body)
        gap = max(first.width("n") if at == 0 else 1.2 * first.px, 2.0)
        x = self.right - second.width(value) if at is None else at
        # A label gives way to its value, not the other way round.
        beside = self.left + first.width(label) + gap
        x = beside if at == 0 else max(x, min(beside, self.left + 0.5 * self.width + gap))
        x = min(x, max(self.right - second.width(value), self.left + 0.25 * self.width))
        number = self.line(Cell(label, first, self.left, 0.0, x - gap - self.left), Cell(value, second, x, 0.0, self.right - x))
        if leader:
            self.leader(number, leader)
        return number

    def leader(self, line: int, size: float) -> None:
        """Dots between the first and the last run of a row; they are drawn, not written."""
        first, last = self.sheet.rows[line][0], self.sheet.rows[line][-1]
        left, right = first.edges[-1] + 0.4 * self.px, last.x - 0.4 * self.px
        ink = mix(self.style.ink, self.style.paper, 0.3)
        self.sheet.rule(left, right, first.baseline - size, ink, size, max(1.0, size))

    def field(self, key: str, value: str, at: float | None = 0, pens: tuple[Pen, Pen] | None = None, leader: float = 0.0) -> int:
        """A pair that is noted as a field."""
        label = self.label(key, self.width - (pens or (self.style.body,))[-1].width(value) - 1.8 * self.px)
        number = self.pair(self.marked(label), value, at, pens, leader)
        self.note(key, self.sheet.passage(number, 1), label=self.strip(self.sheet.rows[number][0].text))
        return number

    @staticmethod
    def strip(label: str) -> str:
        return label.rstrip(": ")

    def note(self, key: str, *value: Passage, label: str = "") -> None:
        self.facts.fields.append(Field(key, value, label))

    def region(self, key: str, first: int, last: int) -> None:
        if last > first:
            self.facts.regions.append(Region(key, first, last))

    def rule(self, thickness: float | None = None, dash: float | None = None, colour: Colour | None = None) -> None:
        """A level line across the column, with some air."""
        thick = thickness or max(1.0, self.px * self.dice.uniform(0.04, 0.12))
        self.space(0.25)
        self.sheet.rule(self.left, self.right, self.y, colour or self.style.muted, thick, dash or 0.0)
        self.y += thick
        self.space(0.25)

    def parts(self, *shares: float, gap: float = 1.0) -> list[Layout]:
        """Columns side by side, by their shares of the width; call `join` when they are filled."""
        made: list[Layout] = []
        x = self.left
        usable = self.width - gap * self.px * (len(shares) - 1)
        for share in shares:
            width = usable * share / sum(shares)
            part = Layout(self.dice, self.author, self.style, self.sheet, self.facts, self.family, self.limit, x, x + width, self.y)
            part.mark, part.capitals = self.mark, self.capitals
            part.column = max([0, *self.sheet.columns, self.column, *(other.column for other in made)]) + 1
            made.append(part)
            x += width + gap * self.px
        return made

    def join(self, parts: list[Layout]) -> None:
        self.y = max(part.y for part in parts)

    def logo(self, x: float, y: float, side: float) -> None:
        """A mark of a company, of circles and polygons in its colour."""
        dice, accent = self.dice, self.style.accent
        pale = mix(accent, self.style.paper, 0.6)
        box = (x, y, x + side, y + side)
        shape = dice.between(0, 4)
        if shape == 0:
            self.sheet.draw(lambda draw: draw.ellipse(box, accent))
            self.sheet.draw(lambda draw: draw.ellipse((x, y, x + side / 2, y + side), pale))
        elif shape == 1:
            points = [(x + side / 2, y), (x + side, y + side), (x, y + side)]
            self.sheet.draw(lambda draw: draw.polygon(points, accent))
            self.sheet.draw(lambda draw: draw.rectangle((x, y + 0.7 * side, x + side, y + 0.8 * side), pale))
        elif shape == 2:
            self.sheet.fill(box, accent, radius=side / 5)
            self.sheet.draw(lambda draw: draw.ellipse((x + side / 4, y + side / 4, x + 3 * side / 4, y + 3 * side / 4), pale))
        elif shape == 3:
            for index in range(3):
                self.sheet.fill((x + index * side / 3, y + index * side / 4, x + (index + 0.8) * side / 3, y + side), accent)
        else:
            turns = dice.between(5, 8)
            self.sheet.draw(
                lambda draw: draw.regular_polygon((x + side / 2, y + side / 2, side / 2), turns, fill=None, outline=accent)
            )
            self.sheet.draw(lambda draw: draw.regular_polygon((x + side / 2, y + side / 2, side / 3), turns, fill=accent))

    def logo_above(self, align: float) -> None:
        """A mark of its own, with text to follow below."""
        side = self.px * self.dice.uniform(2, 4.5)
        self.logo(self.left + align * (self.width - side), self.y, side)
        self.y += side
        self.space(0.4)
