"""Screens: a window with a title bar, a menu, fields, lists, boxes to tick, a message, buttons."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PIL import ImageDraw

from minimonkey.synthetic.kinds.forms import tick_box
from minimonkey.synthetic.kinds.tables import Column, print_table
from minimonkey.synthetic.material.facts import Entry
from minimonkey.synthetic.material.wordings import wordings
from minimonkey.synthetic.rendering.layout import Cell, Layout
from minimonkey.synthetic.rendering.style import mix

FAMILIES = ("dialog", "window", "settings", "list", "sign in")
"""What the window is for; "sign in", labels above fields in a narrow card, is held out."""
LINES = (4, 26)
PLAUSIBLE = (
    *("version", "user", "folder", "size", "status", "language", "email", "date", "author", "website", "phone", "order_number"),
)
FIELDS = ("user", "email", "folder", "version", "language", "status", "size", "name", "website")


def screen(page: Layout, lines: int) -> None:
    """A window of about `lines` lines, with some of the screen about it."""
    dice, style = page.dice, page.style
    page.facts.plausible = PLAUSIBLE
    narrow = page.family in ("dialog", "sign in")
    margin = page.px * dice.uniform(0.4, 2.5)
    page.open(style.body.width("0") * (dice.between(28, 44) if narrow else dice.between(44, 80)), margin + 0.8 * page.px, 300)
    top, edge = page.y, 0.8 * page.px
    left, right = page.left - edge, page.right + edge
    _title_bar(page, left, right)
    if page.family in ("window", "list") or dice.chance(0.15):
        _menu(page, left, right)
    page.space(0.5)
    makers: dict[str, Callable[[Layout, int], None]] = {"dialog": _message, "settings": _settings, "list": _list}
    makers.get(page.family, _fields)(page, max(1, lines - len(page.sheet.rows) - 1))
    page.space(0.5)
    if page.family in ("dialog", "sign in", "settings") or dice.chance(0.5):
        _buttons(page)
    if page.family in ("window", "list") and dice.chance(0.6):
        _status_bar(page, left, right)
    page.space(0.3)
    page.sheet.fill((left, top, right, page.y), None, mix(style.ink, style.paper, dice.uniform(0.2, 0.7)))
    page.close(margin)


def _title_bar(page: Layout, left: float, right: float) -> None:
    """The window's title on a bar, with marks to close it."""
    dice, author, style, sheet = page.dice, page.author, page.style, page.sheet
    top = page.y
    fill = style.accent if dice.chance(0.6) else style.tint
    page.space(0.15)
    page.right -= 5 * page.px
    title = author.heading() if dice.chance(0.6) else f"{author.name_word()} - {author.heading()}"
    number = page.text(title, style.on(fill, style.strong), 0.5 if dice.chance(0.25) else 0.0)
    page.right += 5 * page.px
    page.space(0.15)
    page.note("title", sheet.passage(number))
    sheet.fill((left, top, right, page.y), fill)
    middle, side = (top + page.y) / 2, 0.32 * page.px
    ink = style.on(fill, style.strong).ink
    round_marks = dice.chance(0.4)
    for index in range(3):
        x = page.right - (0.4 + 1.3 * index) * page.px
        box = (x - side, middle - side, x + side, middle + side)
        if round_marks:
            colour = ((230, 90, 80), (235, 190, 70), (90, 190, 90))[index]
            sheet.draw(partial(ImageDraw.ImageDraw.ellipse, xy=box, fill=colour))
        elif index == 0:
            ends = ((box[0], box[1], box[2], box[3]), (box[2], box[1], box[0], box[3]))
            for end in ends:
                sheet.draw(partial(ImageDraw.ImageDraw.line, xy=end, fill=ink, width=2))
        elif index == 1:
            sheet.fill(box, None, ink)
        else:
            sheet.rule(box[0], box[2], middle, ink, 2)


def _menu(page: Layout, left: float, right: float) -> None:
    """The menu bar: one row of words."""
    dice, style = page.dice, page.style
    words = dice.some(wordings()["phrases"]["menus"][page.author.language], dice.between(3, 7))
    cells, x = [], page.left
    for word in words:
        if x + style.body.width(word) > page.right:
            break
        cells.append(Cell(word, style.body, x))
        x += style.body.width(word) + 1.3 * page.px
    top = page.y
    page.line(*cells)
    if dice.chance(0.5):
        page.sheet.fill((left, top, right, page.y), style.tint)
    page.facts.counts["menus"] = len(cells)


def _buttons(page: Layout) -> None:
    """A row of buttons, one of them filled perhaps."""
    dice, style, sheet = page.dice, page.style, page.sheet
    words = dice.some(wordings()["phrases"]["buttons"][page.author.language], dice.between(1, 3))
    pad = 0.9 * page.px
    sizes = [style.body.width(word) + 2 * pad for word in words]
    total = sum(sizes) + 0.8 * page.px * (len(words) - 1)
    while total > page.width and len(words) > 1:
        words, sizes = words[:-1], sizes[:-1]
        total = sum(sizes) + 0.8 * page.px * (len(words) - 1)
    x = page.left + dice.one((1.0, 1.0, 0.5, 0.0)) * max(0.0, page.width - total)
    top = page.y
    high = style.leading * page.px
    chosen = dice.between(-1, len(words) - 1)
    cells = []
    radius = page.px * dice.one((0.0, 0.25, 0.6))
    for index, (word, size) in enumerate(zip(words, sizes, strict=True)):
        box = (x, top, x + size, top + high + 0.5 * page.px)
        fill = style.accent if index == chosen else style.tint
        sheet.fill(box, fill, mix(style.ink, style.paper, 0.5), 1, radius)
        cells.append(Cell(word, style.on(fill, style.body), x + size / 2, 0.5, size))
        x += size + 0.8 * page.px
    page.space(0.25)
    number = page.line(*cells)
    page.space(0.45)
    page.facts.counts["buttons"] = len(cells)
    if len(cells) == 1:
        page.note("button", sheet.passage(number))


def _message(page: Layout, rows: int) -> None:
    """A message beside a mark, sometimes with a particular or two."""
    dice, author, style = page.dice, page.author, page.style
    side = 2.2 * page.px
    shape, accent = dice.between(0, 2), style.accent
    x, y = page.left, page.y
    if shape == 0:
        page.sheet.draw(lambda draw: draw.ellipse((x, y, x + side, y + side), accent))
    elif shape == 1:
        page.sheet.draw(lambda draw: draw.polygon([(x + side / 2, y), (x + side, y + side), (x, y + side)], accent))
    else:
        page.sheet.fill((x, y, x + side, y + side), accent, radius=side / 5)
    page.left += side + 0.8 * page.px
    first, last = page.paragraph(author.prose(dice.between(20, 160)), style.body, max(1, rows - 1))
    page.region("message", first, last)
    page.left = x
    page.y = max(page.y, y + side)
    if rows > 4:
        page.space(0.4)
        _fields(page, min(3, rows - (last - first + 1)))


def _values(page: Layout) -> dict[str, Callable[[], str]]:
    author, dice = page.author, page.dice
    return {
        "user": lambda: author.word().lower(),
        "email": author.email,
        "folder": lambda: dice.one(("/home/{}/{}", "C:\\{}\\{}", "/{}/{}", "~/{}/{}")).format(author.word(), author.word()),
        "version": lambda: author.pattern(dice.one(("9.9", "9.99.9", "99.9", "v9.9.9", "20.99"))),
        "language": lambda: dice.one(("English", "Deutsch", "Français", "Español", "Italiano", "Nederlands", "Português")),
        "status": author.name_word,
        "size": lambda: f"{dice.between(1, 999)} {dice.one(('KB', 'MB', 'GB', 'kB'))}",
        "name": author.person,
        "website": author.website,
    }


def _fields(page: Layout, rows: int) -> None:
    """Labels with values in boxes."""
    dice, style, sheet = page.dice, page.style, page.sheet
    makers = _values(page)
    keys = dice.some(FIELDS, max(1, min(rows, 8 if page.family != "sign in" else 3)))
    above = page.family == "sign in"
    at = page.left + dice.uniform(0.3, 0.45) * page.width
    for key in keys:
        label = page.label(key)
        if above:
            upper = page.text(label, style.small)
            x = page.left + 0.4 * page.px
            lower = page.line(Cell(makers[key](), style.body, x))
            page.note(key, sheet.passage(lower), label=label)
            page.facts.stacked.append((sheet.passage(upper), sheet.passage(lower)))
            number, run = lower, 0
        else:
            number, run = page.field(key, makers[key](), at), 1
        px, baseline = page.px, sheet.rows[number][0].baseline
        box = (sheet.rows[number][run].x - 0.4 * px, baseline - 0.95 * px, page.right, baseline + 0.4 * px)
        sheet.fill(box, None, mix(style.ink, style.paper, 0.5))
        page.space(0.25)


def _settings(page: Layout, rows: int) -> None:
    """Boxes to tick with words beside them, and options with what they are set to."""
    dice, author, style, facts = page.dice, page.author, page.style, page.facts
    side = 0.8 * page.px
    names = author.different(rows + 2)
    facts.absent_items = names[rows:]
    boxes = ticked = 0
    for name in names[:rows]:
        if dice.chance(0.5):
            mark = dice.chance(0.5)
            tick_box(page, page.left, page.y + 0.5 * style.leading * page.px - side / 2, side, mark)
            number = page.line(Cell(name, style.body, page.left + side + 0.5 * page.px))
            facts.ticks.append((page.sheet.passage(number), mark))
            boxes, ticked = boxes + 1, ticked + mark
        else:
            value = str(dice.between(1, 500)) if dice.chance(0.5) else author.name_word()
            number = page.pair(name, value, None)
            facts.entries.append(Entry(page.sheet.passage(number), {"value": page.sheet.passage(number, 1)}))
    facts.entry_intents["value"], facts.absent_intent = "setting", "setting"
    if boxes:
        facts.counts |= {"boxes": boxes, "ticks": ticked}


def _list(page: Layout, rows: int) -> None:
    """Files or the like: a table with a chosen row."""
    dice, author, facts, sheet = page.dice, page.author, page.facts, page.sheet
    count = max(2, rows - 1)
    names: list[str] = []
    while len(names) < count + 2:
        name = f"{author.name_word().lower()}.{dice.one(('txt', 'pdf', 'jpg', 'odt', 'csv', 'zip'))}"
        if name not in names:
            names.append(name)
    facts.absent_items, names = names[count:], names[:count]
    heads = [page.label("name"), page.label("size"), page.label("date")]
    texts = [names, [f"{dice.between(1, 999)} {dice.one(('KB', 'MB'))}" for _ in names], [author.day() for _ in names]]
    columns = [Column(head, column, align) for head, column, align in zip(heads, texts, (0.0, 1.0, 0.0), strict=True)]
    printed = print_table(page, columns, dice.one(("plain", "striped", "ruled")))
    for row in printed.rows:
        cells = {sheet.text_of(printed.head, index): sheet.passage(row, index) for index in (1, 2)}
        facts.entries.append(Entry(sheet.passage(row), cells))
    facts.absent_intent = "cell"
    facts.counts["entries"] = len(printed.rows)
    facts.plausible = [key for key in PLAUSIBLE if key not in ("size", "date")]


def _status_bar(page: Layout, left: float, right: float) -> None:
    dice, author, style = page.dice, page.author, page.style
    top = page.y
    pen = style.on(style.tint, style.small)
    page.line(Cell(author.heading(), pen, page.left, 0.0, 0.6 * page.width), Cell(f"{dice.between(1, 99)} %", pen, page.right, 1.0))
    page.sheet.fill((left, top, right, page.y), style.tint)
