"""What is printed on a document, as a reader sees it: its lines, what may be quoted without doubt, what stands beside what."""

from __future__ import annotations

import re

from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.material.facts import Passage
from minimonkey.synthetic.rendering.sheet import Sheet
from minimonkey.synthetic.rendering.typesetting import Box


class Reading:
    """The lines of a sheet in reading order. `whole` is all text in lower case, a line a row."""

    def __init__(self, dice: Dice, sheet: Sheet) -> None:
        self.dice, self.sheet = dice, sheet
        self.texts = [sheet.text(line) for line in range(len(sheet.rows))]
        self.whole = "\n".join(self.texts).casefold()

    def text(self, passage: Passage) -> str:
        return self.texts[passage.line][passage.start : passage.end]

    def once(self, text: str) -> bool:
        """Whether a text is long enough to be quoted and occurs once, not even within another word."""
        return len(text) > 1 and self.whole.count(text.casefold()) == 1

    def word_once(self, text: str) -> bool:
        """Whether a text occurs once as words of its own."""
        return len(text) > 1 and words_in(text.casefold(), self.whole) == 1

    def line(self, index: int) -> Passage:
        return Passage(index, 0, len(self.texts[index]))

    def beginning(self, index: int) -> str | None:
        """The first words of a line, few, that occur nowhere else."""
        words = self.texts[index].split(" ")
        for count in range(self.dice.between(1, 2), min(5, len(words) + 1)):
            text = " ".join(words[:count])
            if self.once(text):
                return text
        return None

    def follows(self, index: int) -> bool:
        """Whether the line `index + 1` stands right below the line `index`, for every reader."""
        columns = self.sheet.columns
        return index + 1 < len(columns) and columns[index] == columns[index + 1] >= 0

    def alone(self, index: int) -> bool:
        """Whether nothing of another column stands at the height of the line, so that it is a line for every reader."""
        rows, columns = self.sheet.rows, self.sheet.columns
        own = rows[index][0]
        return columns[index] >= 0 and not any(
            column != columns[index] and abs(row[0].baseline - own.baseline) < 0.5 * own.face.px
            for row, column in zip(rows, columns, strict=True)
        )

    def plain(self) -> int:
        """How many lines there are before the first one that has a neighbour beside it."""
        columns = self.sheet.columns
        return next((index for index, column in enumerate(columns) if column), len(columns))

    def any_passage(self) -> Passage:
        """A run, or words of a line."""
        line = self.dice.between(0, len(self.texts) - 1)
        if self.dice.chance(0.5):
            return self.sheet.passage(line, self.dice.between(0, len(self.sheet.rows[line]) - 1))
        words = [match.span() for match in re.finditer(r"\S+", self.texts[line])]
        first = self.dice.between(0, len(words) - 1)
        last = min(len(words) - 1, first + self.dice.between(0, 2))
        return Passage(line, words[first][0], words[last][1])

    def stacked(self, line: int) -> tuple[Passage, Passage] | None:
        """A run of a line and the only one of the next line that stands right below it, and below no other."""
        if not self.follows(line):
            return None
        rows = self.sheet.rows
        upper = self.dice.between(0, len(rows[line]) - 1)
        under = [index for index, run in enumerate(rows[line + 1]) if _overlap(rows[line][upper].ink, run.ink) > 0]
        if len(under) != 1:
            return None
        over = [run for run in rows[line] if _overlap(run.ink, rows[line + 1][under[0]].ink) > 0]
        one, other = rows[line][upper], rows[line + 1][under[0]]
        near_by = other.ink[1] - one.ink[3] < 1.5 * one.face.px and _overlap(one.ink, other.ink) > 0.5
        return (self.sheet.passage(line, upper), self.sheet.passage(line + 1, under[0])) if len(over) == 1 and near_by else None

    def printed_word(self) -> str | None:
        words = [word.strip(".,;:!?()\"'“”") for word in self.dice.one(self.texts).split(" ")]
        words = [word for word in words if len(word) > 3 and self.word_once(word)]
        return self.dice.one(words) if words else None


def words_in(text: str, whole: str) -> int:
    """How often a text occurs in another one as words of its own."""
    count, start = 0, whole.find(text)
    while start >= 0:
        end = start + len(text)
        before, after = whole[start - 1 : start], whole[end : end + 1]
        count += not (before.isalnum() and text[0].isalnum()) and not (after.isalnum() and text[-1].isalnum())
        start = whole.find(text, start + 1)
    return count


def _overlap(one: Box, other: Box) -> float:
    """How much of the narrower box's width is shared."""
    shared = min(one[2], other[2]) - max(one[0], other[0])
    return shared / max(1.0, min(one[2] - one[0], other[2] - other[0]))
