"""Lines over a number, side by side in one picture. Knows numbers, names and colours, not what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

INK, GREY, FAINT = (31, 35, 40), (101, 109, 118), (225, 228, 232)
COLOURS = ((3, 102, 214), (215, 90, 20), (40, 140, 70))
"""Blue, orange and green that differ in lightness too."""
WIDTH, HEIGHT, SCALE = 520, 400, 2
"""Of one panel in pixels of the page; the picture has SCALE times as many."""
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 78, 46


@dataclass(frozen=True)
class Panel:
    """One diagram, both axes from zero or both logarithmic: a line for each name, its values at `across`."""

    title: str
    subtitle: str
    across_name: str
    across: Sequence[float]
    lines: dict[str, Sequence[float]]
    logarithmic: bool = False


def draw(panels: Sequence[Panel]) -> Image.Image:
    """All panels in a row."""
    picture = Image.new("RGB", (SCALE * WIDTH * len(panels), SCALE * HEIGHT), "white")
    for number, panel in enumerate(panels):
        _Drawing(picture, number * WIDTH, panel).draw()
    return picture


class _Drawing:
    """One panel, its left edge at `x` pixels of the page."""

    def __init__(self, picture: Image.Image, x: int, panel: Panel) -> None:
        self.pen, self.x, self.panel = ImageDraw.Draw(picture), x, panel
        values = [value for line in panel.lines.values() for value in line]
        self.across_ticks = ticks(min(panel.across), max(panel.across), panel.logarithmic, base=2)
        self.up_ticks = ticks(min(values), max(values), panel.logarithmic, base=10)

    def draw(self) -> None:
        self.text(20, 14, self.panel.title, INK, 17)
        self.text(20, 37, self.panel.subtitle, GREY, 13)
        self.axes()
        for number, (name, values) in enumerate(self.panel.lines.items()):
            colour = COLOURS[number % len(COLOURS)]
            points = [self.point(*pair) for pair in zip(self.panel.across, values, strict=True)]
            self.pen.line(points, fill=colour, width=SCALE * 2, joint="curve")
            for x, y in points:
                self.pen.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), fill=colour)
            key = TOP + 14 + 20 * number
            self.pen.line([self.page(LEFT + 12, key), self.page(LEFT + 34, key)], fill=colour, width=SCALE * 3)
            self.text(LEFT + 40, key, name, INK, 13, "lm")

    def axes(self) -> None:
        for value in self.up_ticks:
            _, y = self.point(self.across_ticks[0], value)
            self.pen.line([(SCALE * (self.x + LEFT), y), (SCALE * (self.x + WIDTH - RIGHT), y)], FAINT, SCALE)
            self.text(LEFT - 8, y / SCALE, f"{value:g}", GREY, 12, "rm")
        for value in self.across_ticks:
            x, y = self.point(value, self.up_ticks[0])
            self.text(x / SCALE - self.x, y / SCALE + 6, f"{value:g}", GREY, 12, "ma")
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 20, self.panel.across_name, GREY, 13, "ma")

    def point(self, across: float, up: float) -> tuple[float, float]:
        """Where a value stands, in pixels of the picture."""
        x = self.share(across, self.across_ticks) * (WIDTH - LEFT - RIGHT) + LEFT
        y = HEIGHT - BOTTOM - self.share(up, self.up_ticks) * (HEIGHT - TOP - BOTTOM)
        return self.page(x, y)

    def share(self, value: float, marks: list[float]) -> float:
        low, high, value = (math.log(n) if self.panel.logarithmic else n for n in (marks[0], marks[-1], value))
        return (value - low) / (high - low)

    def page(self, x: float, y: float) -> tuple[float, float]:
        return SCALE * (self.x + x), SCALE * y

    def text(self, x: float, y: float, text: str, colour: tuple[int, int, int], size_px: int, anchor: str = "la") -> None:
        self.pen.text(self.page(x, y), text, fill=colour, font=ImageFont.load_default(SCALE * size_px), anchor=anchor)


def ticks(low: float, high: float, logarithmic: bool, base: int) -> list[float]:
    """Round numbers from below the lowest value, or from zero, to above the highest: powers of the base, or 1, 2 or 5 times ten to
    some power apart."""
    if logarithmic:
        first, last = math.floor(math.log(low, base) + 1e-9), math.ceil(math.log(high, base) - 1e-9)
        return [float(base) ** power for power in range(first, max(last, first + 1) + 1)]
    steps = (factor * 10.0**power for power in range(-6, 9) for factor in (1, 2, 5))
    step = next(step for step in steps if high / step <= 6)
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]
