"""Pages of running text: articles, books, manuals; a title, headings, paragraphs and lists in one to three columns."""

from __future__ import annotations

from minimonkey.synthetic.rendering.layout import Cell, Layout

FAMILIES = ("one column", "two columns", "headed", "lists", "three columns")
"""How text is laid out; "three columns" is held out."""
LINES = (10, 60)
PLAUSIBLE = ("invoice_number", "total", "iban", "due_date", "customer_number", "tracking_number", "author", "page_number", "price")
COLUMNS = {"two columns": 2, "three columns": 3}


def text_page(page: Layout, lines: int) -> None:
    """About `lines` lines of text."""
    dice, author, style = page.dice, page.author, page.style
    page.facts.plausible = PLAUSIBLE
    columns = COLUMNS.get(page.family, 1)
    page.open(style.body.width("n") * dice.between(28, 40) * max(columns, 1.6), page.px * dice.uniform(1, 4))
    _header(page)
    if dice.chance(0.7):
        page.note("title", page.sheet.passage(page.text(author.heading(), style.head, dice.one((0.0, 0.0, 0.5)))))
        if dice.chance(0.4):
            page.note("author", page.sheet.passage(page.text(author.person(), style.small)))
        page.space(0.6)
    rows = max(2 * columns, lines - len(page.sheet.rows))
    justified, specials = dice.chance(0.4), dice.chance(0.2)
    indent = page.px * dice.uniform(1.3, 2.2) if dice.chance(0.3) else 0.0
    if specials:
        page.facts.plausible = ()  # anything might be among them
    if columns == 1:
        _blocks(page, rows, justified, indent, specials, named=True)
    else:
        parts = page.parts(*[1] * columns, gap=dice.uniform(1.2, 2.5))
        for part in parts:
            _blocks(part, rows // columns, justified, indent, specials, named=False)
        if dice.chance(0.3):
            for part in parts[1:]:
                x = part.left - 0.7 * page.px
                page.sheet.fill((x, page.y, x + 1, max(part.y for part in parts)), style.muted)
        page.join(parts)
        page.facts.counts["columns_text"] = columns
    _footer(page)
    page.close(page.px * dice.uniform(1, 4), page.sheet.width * dice.one((0.0, 0.0, 1.29, 1.41)) if lines > 20 else 0)


def _header(page: Layout) -> None:
    """A running title, perhaps with the page number."""
    dice, author, style = page.dice, page.author, page.style
    if not dice.chance(0.35):
        return
    number = str(dice.between(1, 480))
    if dice.chance(0.5):
        line = page.line(
            Cell(author.heading(), style.small, page.left, 0.0, 0.8 * page.width), Cell(number, style.small, page.right, 1.0)
        )
        page.note("page_number", page.sheet.passage(line, 1))
    else:
        page.text(author.heading(), style.small, 0.5)
    if dice.chance(0.5):
        page.rule()
    page.space(0.6)


def _footer(page: Layout) -> None:
    dice, style = page.dice, page.style
    if any(field.key == "page_number" for field in page.facts.fields) or not dice.chance(0.4):
        return
    page.space(0.8)
    number = str(dice.between(1, 480))
    if dice.chance(0.3):
        page.field("page_number", number)
    else:
        page.note("page_number", page.sheet.passage(page.text(number, style.small, dice.one((0.5, 1.0)))))


def _blocks(page: Layout, rows: int, justified: bool, indent: float, specials: bool, named: bool) -> None:
    """Paragraphs, with headings and lists as the family has them.

    `indent`: how far a paragraph's first row is moved in, in pixels; with it there is no air between paragraphs.
    `specials`: text is full of figures and signs; `named`: paragraphs are counted and asked for by number.
    """
    dice, author, style = page.dice, page.author, page.style
    counts = 0
    first, last = 0, 0
    # A heading that looks like text would be taken for a paragraph.
    told = style.strong.face is not style.body.face or style.strong.ink != style.body.ink
    headed = told and page.family in ("headed", "two columns")
    while rows > 0:
        if headed and rows > 3 and dice.chance(0.4):
            page.space(0.3)
            page.text(author.heading(), style.strong)
            rows -= 1
        if page.family == "lists" and rows > 2 and dice.chance(0.6):
            rows -= _list(page, min(rows, dice.between(2, 6)))
            named = False
            continue
        text = author.mixed(dice.between(80, 500)) if specials else author.prose(dice.between(80, 500))
        first, last = page.paragraph(text, style.body, rows, justified=justified, indent=indent)
        rows -= last - first + 1
        counts += 1
        if named and counts <= 3:
            page.region(f"paragraph_{counts}", first, last)
        page.space(0.0 if indent else dice.uniform(0.3, 0.8))
    if named and counts > 1:
        page.region("paragraph_last", first, last)
        page.facts.counts["paragraphs"] = counts


def _list(page: Layout, count: int) -> int:
    """Short rows, each behind a mark; how many."""
    dice, author, style = page.dice, page.author, page.style
    mark = dice.one(("•", "-", "*", "–", "#."))
    for index in range(count):
        text = author.prose(dice.between(10, 40))
        page.text(f"{mark.replace('#', str(index + 1))} {text.rstrip('.')}", style.body)
    page.space(0.4)
    return count
