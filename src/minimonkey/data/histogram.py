"""Numbers as bars, in a terminal and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from minimonkey.errors import UsageError

BINS = 12
"""The most bars."""
BAR_CHARACTERS = 40
WIDTH_PX, ROW_PX, FONT_PX, LABEL_PX = 900, 26, 15, 150
INK, MUTED, BAR = (32, 33, 36), (110, 112, 118), (58, 110, 165)


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each of a few equal ranges."""

    name: str
    edges: tuple[int, ...]
    """The first value of each range, and one beyond the last value."""
    counts: tuple[int, ...]
    smallest: int
    median: int
    largest: int
    total: int

    @classmethod
    def of(cls, name: str, values: Sequence[int], bins: int = BINS) -> Histogram:
        """Whole numbers in at most so many ranges whose width is a round number. Raises UsageError if there are none."""
        if not values:
            raise UsageError(f"{name}: no values to draw")
        ordered = sorted(values)
        low, high = ordered[0], ordered[-1]
        width = _round_up((high - low + 1) / bins)
        if high // width - low // width >= bins:  # the first range begins before the first value
            width = _round_up(width + 1)
        start = low // width * width
        edges = tuple(range(start, high + width + 1, width))
        counts = [0] * (len(edges) - 1)
        for value in ordered:
            counts[(value - start) // width] += 1
        return cls(name, edges, tuple(counts), low, ordered[len(ordered) // 2], high, sum(ordered))

    @property
    def summary(self) -> str:
        return f"{self.name}: {self.smallest} to {self.largest}, half up to {self.median}, {self.total} in all"

    def lines(self) -> Iterator[str]:
        """For a terminal: the summary, then a line a range."""
        yield self.summary
        most = max(self.counts)
        for label, count in self._rows():
            bar = "#" * math.ceil(BAR_CHARACTERS * count / most)
            yield f"  {label:>15}  {bar:<{BAR_CHARACTERS}}  {count}"

    def draw(self) -> Image.Image:
        """The same as a picture."""
        font = ImageFont.load_default(FONT_PX)
        picture = Image.new("RGB", (WIDTH_PX, ROW_PX * (len(self.counts) + 2)), "white")
        pen, most = ImageDraw.Draw(picture), max(self.counts)
        pen.text((12, ROW_PX), self.summary, INK, font, "lm")
        room = WIDTH_PX - LABEL_PX - 90
        for number, (label, count) in enumerate(self._rows()):
            middle = ROW_PX * (number + 2)
            pen.text((LABEL_PX - 12, middle), label, MUTED, font, "rm")
            length = round(room * count / most)
            pen.rectangle((LABEL_PX, middle - 8, LABEL_PX + max(length, 1 if count else 0), middle + 8), BAR if count else None)
            pen.text((LABEL_PX + length + 10, middle), str(count), INK, font, "lm")
        return picture

    def _rows(self) -> Iterator[tuple[str, int]]:
        for start, stop, count in zip(self.edges, self.edges[1:], self.counts, strict=False):
            yield (str(start) if stop - start == 1 else f"{start} - {stop - 1}"), count


def _round_up(width: float) -> int:
    """The least of 1, 2, 5, 10, 20, 50 ... that isn't smaller."""
    power = 10 ** max(0, math.floor(math.log10(max(width, 1))))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width)


def draw_all(histograms: Sequence[Histogram]) -> Image.Image:
    """Several histograms, one below the other."""
    drawn = [histogram.draw() for histogram in histograms]
    sheet = Image.new("RGB", (WIDTH_PX, sum(each.height for each in drawn)), "white")
    top = 0
    for each in drawn:
        sheet.paste(each, (0, top))
        top += each.height
    return sheet
