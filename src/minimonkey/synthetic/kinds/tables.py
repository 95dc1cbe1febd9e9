"""Tables: columns of texts and figures under headers, ruled, banded, striped or bare; also the tables of invoices."""

from __future__ import annotations

from dataclasses import dataclass

from minimonkey.synthetic.material.facts import Entry, Passage
from minimonkey.synthetic.rendering.layout import Cell, Layout
from minimonkey.synthetic.rendering.sheet import Pen
from minimonkey.synthetic.rendering.style import mix

FAMILIES = ("ruled", "banded", "striped", "plain", "gridded", "headless rows")
"""How rows are told apart; "headless rows", boxes about rows with a tinted first column, is held out."""
LINES = (5, 30)
PLAUSIBLE = ("author", "invoice_number", "customer_number", "iban", "page_number", "website", "signer")


@dataclass(frozen=True)
class Column:
    """A header and the texts below it, which begin (align 0), are centred (0.5) or end (1) at its edge."""

    head: str
    texts: list[str]
    align: float = 1.0


@dataclass(frozen=True)
class Printed:
    """Where a table was printed: the number of the header's line, and of each row's."""

    head: int
    rows: list[int]


def widths(page: Layout, columns: list[Column], pad: float) -> list[float]:
    """What each column needs, or, where that is too much, less for those that need most."""
    body, head = page.style.body, page.style.strong
    needed = [max(head.width(column.head), *map(body.width, column.texts)) + pad for column in columns]
    spare = page.width - sum(needed)
    if spare < 0:
        order = sorted(range(len(needed)), key=needed.__getitem__, reverse=True)
        for index in order:
            least = min(needed[index], 0.9 * page.width / len(columns))
            taken = min(needed[index] - least, -spare)
            needed[index] -= taken
            spare += taken
        return needed
    return [needed[0] + 0.6 * spare, *(width + 0.4 * spare / max(1, len(needed) - 1) for width in needed[1:])]


def print_table(page: Layout, columns: list[Column], family: str, tall: float = 1.0) -> Printed:
    """A header and rows. `tall`: the height of a row, in those of a line."""
    style, sheet = page.style, page.sheet
    pad = page.px * page.dice.uniform(0.7, 1.2)
    spans = widths(page, columns, pad)
    starts = [page.left + sum(spans[:index]) for index in range(len(spans))]
    ends = [start + span for start, span in zip(starts, spans, strict=True)]
    heading = style.on(style.accent, style.strong) if family == "banded" else style.strong
    leading = style.leading * tall
    line_ink = mix(style.ink, style.paper, page.dice.uniform(0, 0.6))
    thick = max(1.0, page.px * page.dice.uniform(0.03, 0.09))
    top = page.y
    marks = [page.y]

    def row(texts: list[str], pen_of: list[Pen]) -> int:
        cells = []
        for index, (text, column) in enumerate(zip(texts, columns, strict=True)):
            inside = spans[index] - 0.8 * pad
            x = starts[index] + 0.4 * pad + column.align * inside
            cells.append(Cell(text, pen_of[index], x, column.align, inside))
        number = page.line(*cells, leading=leading)
        marks.append(page.y)
        return number

    head = row([column.head for column in columns], [heading] * len(columns))
    first = style.strong if page.dice.chance(0.2) else style.body
    pens = [first] + [style.body] * (len(columns) - 1)
    rows = [row([column.texts[index] for column in columns], pens) for index in range(len(columns[0].texts))]
    left, right = starts[0], ends[-1]
    if family == "banded":
        sheet.fill((left, top, right, marks[1]), style.accent)
    if family == "headless rows":
        sheet.fill((left, marks[1], ends[0], page.y), style.tint)
    if family in ("striped", "banded") and (family == "striped" or page.dice.chance(0.4)):
        for index in range(1 + page.dice.between(0, 1), len(rows) + 1, 2):
            sheet.fill((left, marks[index], right, marks[index + 1]), style.tint)
    if family in ("ruled", "gridded", "headless rows"):
        for y in marks if family != "ruled" else (marks[1], marks[-1]):
            sheet.rule(left, right, y, line_ink, thick)
    if family == "gridded":
        for x in (left, *ends):
            sheet.fill((x, top, x + max(thick, 1.0), page.y), line_ink)
    if family == "plain" and page.dice.chance(0.5):
        sheet.rule(left, right, marks[1], line_ink, thick, page.px * 0.2 if page.dice.chance(0.4) else 0)
    return Printed(head, rows)


def table(page: Layout, lines: int) -> None:
    """A table of about `lines` lines, with a title, perhaps a note below it."""
    dice, author, style, facts, sheet = page.dice, page.author, page.style, page.facts, page.sheet
    facts.plausible = PLAUSIBLE
    count = dice.between(2, 6)
    page.open(style.body.width("0") * dice.between(9, 16) * (count + 1), page.px * dice.uniform(0.8, 3))
    titled = lines > 4 and dice.chance(0.7)
    if titled:
        page.note("title", sheet.passage(page.text(author.heading(), style.head, dice.one((0.0, 0.0, 0.5)))))
        if lines > 9 and dice.chance(0.4):
            first, last = page.paragraph(author.prose(90), style.small, 3)
            page.region("text", first, last)
        page.space(0.6)
    note = lines > 7 and dice.chance(0.3)
    rows = max(2, lines - len(sheet.rows) - 1 - note)
    names = author.different(rows + 2)
    if dice.chance(0.15):
        year = dice.between(1950, 2015)
        names = [str(year + index) for index in range(rows + 2)]
    kept, facts.absent_items = names[: max(2, len(names) - 2)], names[max(2, len(names) - 2) :]
    made = [_figures(page, len(kept)) for _ in range(count)]
    heads = _heads(page, count)
    columns = [Column(author.heading().split(" ")[0].capitalize(), kept, 0.0)]
    columns += [Column(head, texts, align) for head, (texts, align, _) in zip(heads, made, strict=True)]
    printed = print_table(page, columns, page.family, dice.uniform(1, 1.5))
    _facts(page, printed, columns, made[0][2])
    facts.absent_intent = "cell"
    if note:
        page.space(0.5)
        page.text(author.prose(50), style.small)
    page.close(page.px * dice.uniform(0.8, 3))


def _heads(page: Layout, count: int) -> list[str]:
    """Headers: words, years, or months; no two alike."""
    dice, author = page.dice, page.author
    way = dice.between(0, 4)
    if way == 0:
        year = dice.between(1960, 2025)
        return [str(year + index) for index in range(count)]
    if way == 1:
        return [f"Q{index + 1}" for index in range(count)]
    heads: list[str] = []
    while len(heads) < count:
        word = author.name_word()
        if dice.chance(0.25):
            word += dice.one((" %", " (kg)", " (m)", " no.", " EUR", " 2"))
        if word.casefold() not in [head.casefold() for head in heads]:
            heads.append(word)
    return heads


def _figures(page: Layout, count: int) -> tuple[list[str], float, list[float] | None]:
    """A column's texts, how they are aligned, and what they are worth if they are numbers."""
    dice, author = page.dice, page.author
    way = dice.between(0, 8)
    high = 10 ** dice.uniform(1, 4.5)
    values = [dice.uniform(0, high) for _ in range(count)]
    if way < 3:
        return [str(int(value)) for value in values], 1.0, [float(int(value)) for value in values]
    if way < 5:
        tenths = [round(value * 10) for value in values]
        return [f"{v // 10}{author.comma}{v % 10}" for v in tenths], 1.0, [v / 10 for v in tenths]
    if way == 5:
        cents = [int(value * 100) for value in values]
        return [author.money(value) for value in cents], 1.0, [value / 100 for value in cents]
    if way == 6:
        percent = [dice.between(0, 100) for _ in range(count)]
        return [f"{value}%" for value in percent], 1.0, [float(value) for value in percent]
    if way == 7:
        return [author.day() for _ in range(count)], 0.0, None
    return [author.name_word() for _ in range(count)], 0.0, None


def _facts(page: Layout, printed: Printed, columns: list[Column], values: list[float] | None) -> None:
    sheet, facts = page.sheet, page.facts
    heads = [sheet.text_of(printed.head, index) for index in range(len(columns))]
    for index, row in enumerate(printed.rows):
        cells: dict[str, Passage] = {
            heads[column]: sheet.passage(row, column)
            for column in range(1, len(columns))
            if heads.count(heads[column]) == 1 and len(heads[column]) > 1
        }
        facts.entries.append(Entry(sheet.passage(row), cells, values[index] if values else None))
    facts.counts["rows"] = len(printed.rows)
    facts.counts["columns"] = len(columns)
    page.region("rows", printed.rows[0], printed.rows[-1])
