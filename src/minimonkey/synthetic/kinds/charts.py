"""Simple charts: bars, lines and pies, with names, values, axes and a title. Every value that is asked for is printed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from PIL import ImageDraw

from minimonkey.synthetic.material.facts import Entry
from minimonkey.synthetic.rendering.layout import Cell, Layout
from minimonkey.synthetic.rendering.sheet import ALONE, Colour
from minimonkey.synthetic.rendering.style import ACCENTS, mix

FAMILIES = ("bars", "line", "pie", "bars in one colour", "level bars")
"""Kinds of charts; "level bars", from left to right, is held out."""
LINES = (4, 12)
PLAUSIBLE = ("x_axis", "y_axis", "author", "date", "website", "page_number")


@dataclass(frozen=True)
class Series:
    """Names, what they are worth, and how that is printed."""

    names: list[str]
    values: list[float]
    texts: list[str]
    absent: list[str]


def chart(page: Layout, lines: int) -> None:
    """A chart of about `lines` values."""
    dice, author, style, facts = page.dice, page.author, page.style, page.facts
    facts.plausible = PLAUSIBLE
    pie = page.family == "pie"
    series = _series(page, min(lines, 7) if pie else lines, pie)
    wide = sum(max(style.body.width(name), style.body.width(text)) for name, text in zip(series.names, series.texts, strict=True))
    upright = page.family not in ("pie", "level bars")
    page.open(
        max(20 * page.px, wide + page.px * len(series.names) + 4 * page.px) if upright else 24 * page.px,
        page.px * dice.uniform(0.8, 2),
        300,
    )
    page.note("title", page.sheet.passage(page.text(author.heading(), style.head, dice.one((0.0, 0.5, 0.5)))))
    page.space(0.8)
    if pie:
        _pie(page, series)
    elif page.family == "level bars":
        _level(page, series)
    else:
        _upright(page, series, page.px * dice.uniform(8, 16))
    things = {"pie": "slices", "line": "points"}.get(page.family, "bars")
    facts.counts[things] = len(series.names)
    facts.entry_intents["value"], facts.absent_intent = "chart_value", "chart_value"
    facts.absent_items = series.absent
    # Whether 1995 is more than 2000 isn't a question for a chart.
    facts.comparison = "" if series.names[0].isdigit() else "higher"
    page.close(page.px * dice.uniform(0.6, 1.5))


def _series(page: Layout, count: int, pie: bool) -> Series:
    """Different names, and whole numbers, decimals or shares."""
    dice, author = page.dice, page.author
    count = max(2, count)
    if dice.chance(0.3) and not pie:
        year = dice.between(1960, 2015)
        names = [str(year + index) for index in range(count + 2)]
    else:
        names = []
        while len(names) < count + 2:
            name = author.name_word()[: dice.between(5, 11)]
            if not any(name.casefold() in other.casefold() or other.casefold() in name.casefold() for other in names):
                names.append(name)
    if pie:
        weights = [dice.uniform(0.3, 2) for _ in range(count)]
        values = [max(1.0, round(100 * weight / sum(weights))) for weight in weights]
        values[values.index(max(values))] += 100 - sum(values)
        return Series(names[:count], values, [f"{value:.0f}%" for value in values], names[count:])
    high = 10 ** dice.uniform(1, 4)
    least = 0.35 if page.family == "line" else 0.08  # a value may stand below its point
    if dice.chance(0.7):
        values = [float(int(dice.uniform(least, 1) * high) + 1) for _ in range(count)]
        texts = [f"{value:.0f}" for value in values]
    else:
        tenths = [int(dice.uniform(least, 1) * high) + 1 for _ in range(count)]
        values, texts = [ten / 10 for ten in tenths], [f"{ten // 10}{author.comma}{ten % 10}" for ten in tenths]
    unit = dice.one(("", "", "", "%", " kg", " €"))
    return Series(names[:count], values, [text + unit for text in texts], names[count:])


def _colours(page: Layout, count: int) -> list[Colour]:
    """Different ones, or the same for all."""
    if page.family in ("pie", "bars"):
        shuffled = page.dice.shuffled(ACCENTS)
        return [
            mix(shuffled[index % len(shuffled)], page.style.paper, 0.35 * (index // len(shuffled)) + 0.15) for index in range(count)
        ]
    return [mix(page.style.accent, page.style.paper, 0.1)] * count


def _upright(page: Layout, series: Series, height: float) -> None:
    """Bars or points over a common axis: values above them, names below."""
    dice, style, sheet, facts = page.dice, page.style, page.sheet, page.facts
    if dice.chance(0.4):
        number = page.text(page.author.heading(), style.small)
        page.note("y_axis", sheet.passage(number))
    top, left = page.y + 1.6 * page.px, page.left + 3.4 * page.px
    bottom = top + height
    _scale(page, max(series.values), left, top, bottom)
    span = (page.right - left) / len(series.names)
    colours = _colours(page, len(series.names))
    share = dice.uniform(0.45, 0.85)
    tops = [bottom - height * value / max(series.values) for value in series.values]
    middles = [left + (index + 0.5) * span for index in range(len(tops))]
    if page.family == "line":
        points = list(zip(middles, tops, strict=True))
        radius = max(2.0, page.px / 5)
        sheet.draw(lambda draw: draw.line(points, colours[0], max(2, round(page.px / 8)), joint="curve"))
        for x, y in points:
            dot = (x - radius, y - radius, x + radius, y + radius)
            sheet.draw(partial(ImageDraw.ImageDraw.ellipse, xy=dot, fill=colours[0]))
    else:
        for x, y, colour in zip(middles, tops, colours, strict=True):
            sheet.fill((x - share * span / 2, y, x + share * span / 2, bottom), colour)
    page.column = ALONE
    values = []
    for index, (x, y, text) in enumerate(zip(middles, tops, series.texts, strict=True)):
        valley = page.family == "line" and y > (min(tops[max(0, index - 1) : index + 2]) + y) / 2
        page.y = y + 0.25 * page.px if valley else y - (0.25 + style.leading) * page.px
        values.append(page.line(Cell(text, style.body, x, 0.5, span)))
    page.column = 0
    page.y = bottom + 0.3 * page.px
    below = page.line(*(Cell(name, style.body, x, 0.5, span) for x, name in zip(middles, series.names, strict=True)))
    for index, (value, worth) in enumerate(zip(values, series.values, strict=True)):
        facts.entries.append(Entry(sheet.passage(below, index), {"value": sheet.passage(value)}, worth))
    if dice.chance(0.4):
        page.note("x_axis", sheet.passage(page.text(page.author.heading(), style.small, 0.5)))


def _scale(page: Layout, highest: float, left: float, top: float, bottom: float) -> None:
    """The vertical axis with round numbers and level lines."""
    dice, style, sheet = page.dice, page.style, page.sheet
    pale = mix(style.paper, style.ink, 0.15)
    step = 10 ** math.floor(math.log10(max(highest, 1e-6) / 2))
    step *= next(many for many in (1, 2, 5, 10) if highest / (step * many) <= 5)
    page.column = ALONE
    lines = dice.chance(0.6)
    for index in range(int(highest / step), -1, -1):
        y = bottom - (bottom - top) * index * step / highest
        if lines:
            sheet.rule(left, page.right, y, pale, 1)
        page.y = y - 0.5 * style.leading * style.small.px
        number = f"{index * step:.0f}" if step >= 1 else f"{index * step:.1f}"
        page.line(Cell(number, style.small, left - 0.4 * page.px, 1.0, 3 * page.px))
    page.column = 0
    sheet.rule(left, page.right, bottom, style.ink, max(1.0, page.px / 16))
    sheet.fill((left, top, left + max(1.0, page.px / 16), bottom), style.ink)


def _level(page: Layout, series: Series) -> None:
    """A bar a row: its name left, its value right of it."""
    dice, style, sheet = page.dice, page.style, page.sheet
    start = page.left + max(map(style.body.width, series.names)) + 0.6 * page.px
    room = page.right - start - max(map(style.body.width, series.texts)) - 0.8 * page.px
    thick = dice.uniform(0.5, 0.9) * style.leading * page.px
    for name, value, text, colour in zip(series.names, series.values, series.texts, _colours(page, len(series.names)), strict=True):
        end = start + max(2.0, room * value / max(series.values))
        middle = page.y + 0.5 * style.leading * page.px
        number = page.line(Cell(name, style.body, start - 0.5 * page.px, 1.0), Cell(text, style.body, end + 0.4 * page.px))
        sheet.fill((start, middle - thick / 2, end, middle + thick / 2), colour)
        page.facts.entries.append(Entry(sheet.passage(number), {"value": sheet.passage(number, 1)}, value))


def _pie(page: Layout, series: Series) -> None:
    """A pie with a legend of names and shares beside or below it."""
    dice, style, sheet = page.dice, page.style, page.sheet
    colours = _colours(page, len(series.names))
    beside = dice.chance(0.5)
    side = page.width * (0.5 if beside else 0.7)
    x, y = page.left if beside else page.left + 0.15 * page.width, page.y
    turn = dice.uniform(0, 360)
    for value, colour in zip(series.values, colours, strict=True):
        whole = (x, y, x + side, y + side)
        part = partial(ImageDraw.ImageDraw.pieslice, xy=whole, start=turn, end=turn + 3.6 * value, fill=colour, outline=style.paper)
        sheet.draw(part)
        turn += 3.6 * value
    if dice.chance(0.25):
        hole = (x + 0.28 * side, y + 0.28 * side, x + 0.72 * side, y + 0.72 * side)
        sheet.draw(lambda draw: draw.ellipse(hole, style.paper))
    left = page.left
    if beside:
        page.left = x + side + 1.2 * page.px
        page.y = y + max(0.0, side - len(series.names) * style.leading * page.px) / 2
    else:
        page.y = y + side + 0.8 * page.px
    box = 0.7 * page.px
    for name, value, text, colour in zip(series.names, series.values, series.texts, colours, strict=True):
        middle = page.y + 0.5 * style.leading * page.px
        sheet.fill((page.left, middle - box / 2, page.left + box, middle + box / 2), colour)
        page.left += 1.2 * page.px
        number = page.pair(name, text, None if not beside or dice.chance(0.5) else 0)
        page.left -= 1.2 * page.px
        page.facts.entries.append(Entry(sheet.passage(number), {"value": sheet.passage(number, 1)}, value))
    page.left, page.y = left, max(page.y, y + side)
