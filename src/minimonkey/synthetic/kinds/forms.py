"""Forms that somebody filled in: labels with values on rules, in boxes or in columns, sections, boxes to tick, a signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from PIL import ImageDraw

from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.material.wordings import wordings
from minimonkey.synthetic.rendering.layout import Cell, Layout
from minimonkey.synthetic.rendering.sheet import ALONE, Pen
from minimonkey.synthetic.rendering.style import mix, readable

FAMILIES = ("ruled", "boxed", "columns", "striped", "labels below")
"""How labels and values stand; "labels below", under a rule that the value is written on, is held out."""
LINES = (6, 36)
PLAUSIBLE = (
    *("name", "first_name", "last_name", "birthday", "birthplace", "street", "postcode", "city", "country", "nationality", "phone"),
    *("email", "occupation", "employer", "passport", "member_number", "iban", "date", "reference", "total", "invoice_number"),
    *("website", "tax_id", "due_date"),
)
BLUE = (25, 45, 140)


def makers_of(page: Layout) -> dict[str, Callable[[], str]]:
    """What a form asks for, by key."""
    author = page.author
    named: dict[str, Callable[[], str]] = {"first_name": author.first, "last_name": author.last}
    if page.dice.chance(0.5):
        named = {"name": author.person}
    return named | {
        "birthday": lambda: author.day(1930, 2012),
        "birthplace": author.town,
        "street": author.street,
        "postcode": author.postcode,
        "city": author.town,
        "country": author.country,
        "nationality": author.name_word,
        "phone": author.phone,
        "email": author.email,
        "occupation": lambda: author.word().lower(),
        "employer": author.company,
        "passport": author.code,
        "member_number": author.code,
        "iban": author.iban,
        "reference": author.code,
        "date": author.day,
    }


def form(page: Layout, lines: int) -> None:
    """About `lines` lines of a form: fields of a person, then boxes to tick, remarks and a signature as far as they fit."""
    dice, author, style, facts = page.dice, page.author, page.style, page.facts
    facts.plausible = PLAUSIBLE
    wide = 24 if page.family == "columns" else 0
    page.open(style.body.width("0") * (wide + dice.between(40, 72)), page.px * dice.uniform(1, 3.5))
    _title(page, lines)
    pen = _filling(page)
    makers = makers_of(page)
    rows = lines - len(page.sheet.rows)
    each = 2 if page.family in ("boxed", "labels below") else 1
    across = {"boxed": dice.between(2, 3), "labels below": dice.between(1, 3), "columns": 2}.get(page.family, 1)
    count = min(len(makers), max(2, round(dice.uniform(0.6, 0.9) * rows * across / each)))
    keys = dice.some(list(makers), count)
    half = dice.between(2, len(keys)) if len(keys) > 6 and dice.chance(0.5) else len(keys)
    for part in (keys[:half], keys[half:]):
        if part and half < len(keys):
            _section(page)
        _fields(page, {key: makers[key]() for key in part}, pen, across)
    rest = lines - len(page.sheet.rows)
    if rest > 0 and dice.chance(0.8):
        page.space(0.5)
        _ticks(page, min(max(1, rest // 2), 8))
    rest = lines - len(page.sheet.rows)
    while rest > 4:
        _section(page)
        page.paragraph(author.prose(dice.between(60, 400)), style.small if dice.chance(0.5) else style.body, min(8, rest - 2))
        page.space(0.4)
        rest = lines - len(page.sheet.rows)
    if rest > 0:
        _signature(page)
    page.close(page.px * dice.uniform(1, 4), page.sheet.width * dice.one((0.0, 0.0, 0.0, 1.41)) if lines > 14 else 0)


def _title(page: Layout, lines: int) -> None:
    dice, author, style = page.dice, page.author, page.style
    if dice.chance(0.25):
        page.logo(page.right - 3 * page.px, page.y, 3 * page.px)
    title = dice.one(wordings()["titles"]["form"][author.language])
    top, band = page.y, dice.chance(0.25)
    pen = style.on(style.accent, style.head) if band else style.head
    page.right -= 4 * page.px
    number = page.text(title, pen, 0.0 if band else dice.one((0.0, 0.0, 0.5)))
    page.right += 4 * page.px
    page.note("title", page.sheet.passage(number))
    if band:
        page.sheet.fill((page.left - 0.4 * page.px, top, page.right, page.y), style.accent)
        page.space(0.3)
    if lines > 10 and dice.chance(0.5):
        page.paragraph(author.prose(dice.between(60, 160)), style.small, 3)
    page.space(dice.uniform(0.4, 1.2))


def _filling(page: Layout) -> Pen:
    """The pen that the form is filled in with: the form's own, in bold, or in blue."""
    style, dice = page.style, page.dice
    pen = style.body if dice.chance(0.6) else style.strong
    return pen.tinted(readable(BLUE, style.paper, style.contrast)) if dice.chance(0.35) else pen.tinted(style.ink)


def _section(page: Layout) -> None:
    style, dice = page.style, page.dice
    page.space(0.3)
    top, band = page.y, dice.chance(0.5)
    text = page.author.heading()
    page.text(
        f"{dice.between(1, 9)}. {text}" if dice.chance(0.3) else text, style.on(style.tint, style.strong) if band else style.strong
    )
    if band:
        page.sheet.fill((page.left - 0.3 * page.px, top, page.right, page.y), style.tint)
    page.space(0.2)


def _fields(page: Layout, values: dict[str, str], pen: Pen, across: int) -> None:
    """Fields one below the other, or `across` of them side by side."""
    if page.family in ("boxed", "labels below"):
        items = list(values.items())
        while items:
            taken = min(len(items), page.dice.between(1, across))
            _stacked(page, items[:taken], pen)
            items = items[taken:]
        return
    if page.family == "columns":
        parts = page.parts(*[1] * across, gap=2)
        size = -(-len(values) // across)
        items = list(values.items())
        for index, part in enumerate(parts):
            for key, value in items[index * size : (index + 1) * size]:
                part.field(key, value, part.left + 0.45 * part.width, (page.style.body, pen))
        page.join(parts)
        page.space(0.4)
        return
    at = page.left + page.width * page.dice.uniform(0.3, 0.45)
    if page.dice.chance(0.3):
        at = 0.0
    for index, (key, value) in enumerate(values.items()):
        top = page.y
        number = page.field(key, value, at, (page.style.on(page.style.tint, page.style.body), pen))
        if page.family == "striped" and index % 2:
            page.sheet.fill((page.left - 0.3 * page.px, top, page.right, page.y), page.style.tint)
        elif page.family == "ruled":
            y = page.sheet.rows[number][0].baseline + 0.25 * page.px
            page.sheet.rule(page.sheet.rows[number][1].x - 2, page.right, y, page.style.muted, 1, 0 if index % 3 else 1.5)
            page.space(0.15)


def _stacked(page: Layout, items: Sequence[tuple[str, str]], pen: Pen) -> None:
    """Fields side by side, each with its label above or below the value."""
    style, sheet, dice = page.style, page.sheet, page.dice
    span = page.width / len(items)
    starts = [page.left + index * span + 0.4 * page.px for index in range(len(items))]
    room = span - 0.9 * page.px
    labels = [page.label(key) for key, _ in items]
    top = page.y
    page.space(0.15)
    upper = [Cell(label, style.small, x, 0.0, room) for label, x in zip(labels, starts, strict=True)]
    lower = [Cell(value, pen, x, 0.0, room) for (_, value), x in zip(items, starts, strict=True)]
    below = page.family == "labels below"
    numbers = [page.line(*cells, leading=1.2) for cells in ((lower, upper) if below else (upper, lower))]
    label_row, value_row = numbers[::-1] if below else numbers
    for index, (key, _) in enumerate(items):
        page.note(key, sheet.passage(value_row, index), label=sheet.text_of(label_row, index))
        page.facts.stacked.append((sheet.passage(numbers[0], index), sheet.passage(numbers[1], index)))
    page.space(0.15)
    for index in range(len(items)):
        left = page.left + index * span
        if below:
            y = sheet.rows[numbers[0]][0].baseline + 0.28 * page.px
            sheet.rule(left + 0.3 * page.px, left + span - 0.3 * page.px, y, style.muted, 1)
        else:
            sheet.fill((left, top, left + span, page.y), None, mix(style.ink, style.paper, 0.4))
    if below or dice.chance(0.3):
        page.space(0.4)


def tick_box(page: Layout, x: float, y: float, side: float, ticked: bool) -> None:
    """A box of `side` pixels, crossed or ticked if it is."""
    ink = page.style.ink
    wide = max(1, round(side / 9))
    page.sheet.fill((x, y, x + side, y + side), None, ink, wide)
    if not ticked:
        return
    if page.dice.chance(0.5):
        ends = (
            (x + 0.2 * side, y + 0.2 * side, x + 0.8 * side, y + 0.8 * side),
            (x + 0.8 * side, y + 0.2 * side, x + 0.2 * side, y + 0.8 * side),
        )
        for end in ends:
            page.sheet.draw(partial(ImageDraw.ImageDraw.line, xy=end, fill=ink, width=wide + 1))
    else:
        path = [(x + 0.15 * side, y + 0.5 * side), (x + 0.4 * side, y + 0.85 * side), (x + 1.05 * side, y - 0.1 * side)]
        page.sheet.draw(lambda draw: draw.line(path, ink, wide + 1))


def _ticks(page: Layout, count: int) -> None:
    """Boxes to tick, one below the other or in a row; texts that stand beside one another have no reading order."""
    dice, style, author = page.dice, page.style, page.author
    texts = dice.some(wordings()["phrases"]["ticks"][author.language], count)
    side = 0.8 * page.px
    in_row = dice.chance(0.5)
    ticked = 0
    x = page.left
    for text in texts:
        mark = dice.chance(0.5)
        ticked += mark
        width = side + 0.5 * page.px + style.body.width(text) + 1.5 * page.px
        if in_row and x > page.left and x + width > page.right:
            x, page.y = page.left, page.y + style.leading * page.px
        top = page.y
        tick_box(page, x, top + 0.5 * style.leading * page.px - side / 2, side, mark)
        page.column, before = ALONE if in_row else page.column, page.column
        number = page.line(Cell(text, style.body, x + side + 0.5 * page.px))
        page.column = before
        page.facts.ticks.append((page.sheet.passage(number), mark))
        if in_row:
            x, page.y = x + width, top
    if in_row:
        page.y += style.leading * page.px
    page.facts.counts |= {"boxes": len(texts), "ticks": ticked}


def scribble(dice: Dice, x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    """The path of a signature that nobody can read."""
    count = dice.between(8, 16)
    return [(x + width * (index + dice.uniform(-0.8, 0.8)) / count, y + height * dice.uniform(-0.5, 0.5)) for index in range(count)]


def _signature(page: Layout) -> None:
    dice, style = page.dice, page.style
    page.space(1.2)
    x, width = page.left + dice.uniform(0, 0.4) * page.width, 0.4 * page.width
    path = scribble(dice, x + 0.1 * width, page.y - 0.2 * page.px, 0.7 * width, 1.4 * page.px)
    page.sheet.draw(lambda draw: draw.line(path, BLUE, max(1, round(page.px / 12)), joint="curve"))
    page.sheet.rule(x, x + width, page.y + 0.3 * page.px, style.muted, 1)
    page.space(0.5)
    page.line(Cell(page.label("signer"), style.small, x, 0.0, width))
