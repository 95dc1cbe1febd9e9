"""Receipts: a shop's head, what was bought, sums that add up, how it was paid. Narrow and long, often in monospaced type."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from minimonkey.synthetic.kinds.purchase import Bought, Purchase, make_purchase, print_totals
from minimonkey.synthetic.material.facts import Entry
from minimonkey.synthetic.material.wordings import phrase, wordings
from minimonkey.synthetic.rendering.layout import Cell, Layout

FAMILIES = ("amounts", "quantities", "two rows", "columns", "footed")
"""How goods are laid out; "footed", the shop's address below all else, is held out."""
LINES = (5, 40)
PLAUSIBLE = (
    *("subtotal", "tax", "discount", "change", "cash", "card", "date", "time", "receipt_number", "phone", "email", "website"),
    *("tax_id", "cashier", "register", "table_number", "guests", "order_number", "customer_number", "due_date", "shipping"),
)


class Look(NamedTuple):
    """How one receipt prints its goods."""

    signed: bool
    several: bool
    """Whether more than one of something was bought."""
    times: str
    """The sign between quantity and price."""
    leader: float
    """The size of dots before the amount, 0 for none."""
    ends: list[float]
    """Where the name and the columns of figures end, in the family "columns"."""


def receipt(page: Layout, lines: int) -> None:
    """About `lines` lines of a receipt."""
    dice, author, style = page.dice, page.author, page.style
    page.facts.plausible = PLAUSIBLE
    page.open(style.body.width("0") * dice.between(38 if page.family == "columns" else 24, 46), page.px * dice.uniform(0.6, 2.2))
    few = lines < 10
    footed = page.family == "footed"
    align = dice.one((0.5, 0.5, 0.5, 0.0))
    goods_rows = 2 if page.family == "two rows" else 1
    used = _head(page, align, dice.between(1, 2) if few or footed else dice.between(2, min(6, lines // 4)))
    used += _about(page, 1 if few else dice.between(1, min(6, lines // 5)))
    ending = (1, 2) if few else (3, 7)
    count = max(1, dice.between(1, 3) if few else 2, round((lines - used - dice.between(*ending)) / goods_rows))
    purchase = make_purchase(
        dice, author, count, dice.uniform(2.8, 3.8), 0.0 if page.family == "amounts" else dice.uniform(0.1, 0.7)
    )
    _separate(page)
    _goods(page, purchase)
    _separate(page)
    print_totals(page, purchase, signed=dice.chance(0.5), band=footed or dice.chance(0.12))
    rest = lines - len(page.sheet.rows)
    if rest > 1 or dice.chance(0.3):
        _payment(page, purchase)
    if rest > 2 or dice.chance(0.3):
        _foot(page, align, dice.between(1, 3) if rest > 3 else 1)
    if footed:
        _separate(page)
        _address(page, align, dice.between(2, 4))
    page.close(page.px * dice.uniform(0.6, 3))


def _separate(page: Layout) -> None:
    """A whole or dashed rule, a row of signs that is drawn like them, or mere air."""
    way = page.dice.between(0, 4)
    if way < 2:
        page.rule(dash=page.px * page.dice.uniform(0.15, 0.5))
    elif way < 4:
        page.rule()
        if page.dice.chance(0.2):
            page.y -= 0.2 * page.px
            page.rule()
    else:
        page.space(0.7)


def _head(page: Layout, align: float, rows: int) -> int:
    """The shop's name and, except where it stands at the foot, its address; how many rows that took."""
    dice, author, style = page.dice, page.author, page.style
    start = len(page.sheet.rows)
    if dice.chance(0.3):
        page.logo_above(align)
    name = author.company()
    first = page.text(name.upper() if dice.chance(0.4) else name, style.head, align)
    page.note("seller", page.sheet.passage(first))
    if page.family != "footed" and rows > 1:
        _address(page, align, rows - 1)
    if dice.chance(0.2):
        page.space(0.4)
        page.text(dice.one(wordings()["titles"]["receipt"][author.language]), style.strong, align)
    page.space(dice.uniform(0.2, 0.8))
    return len(page.sheet.rows) - start


def _address(page: Layout, align: float, rows: int) -> None:
    dice, author, style = page.dice, page.author, page.style
    pen = style.body if dice.chance(0.7) else style.small
    numbers = [page.text(author.street(), pen, align)]
    if rows > 1:
        numbers.append(page.text(author.town_line(), pen, align))
    page.note("address", *(page.sheet.passage(number) for number in numbers))
    makers: dict[str, Callable[[], str]] = {
        "phone": author.phone,
        "tax_id": author.tax_id,
        "website": author.website,
        "email": author.email,
    }
    for key in dice.some(list(makers), rows - 2):
        centred_pair(page, key, makers[key](), align)
    last = len(page.sheet.rows) - 1
    if page.family == "footed":
        page.region("address", numbers[0], last)
    else:
        page.region("seller", numbers[0] - 1, last)


def centred_pair(page: Layout, key: str, value: str, align: float) -> None:
    """A label and its value side by side, together at the left or in the middle."""
    pen = page.style.body
    label = page.marked(page.label(key))
    space = pen.width("n")
    width = pen.width(label) + space + pen.width(value)
    x = page.left + max(0.0, align * (page.width - width))
    number = page.line(Cell(label, pen, x), Cell(value, pen, x + pen.width(label) + space))
    page.note(key, page.sheet.passage(number, 1), label=page.strip(page.sheet.rows[number][0].text))


def _about(page: Layout, rows: int) -> int:
    """Date, time, number, cashier ...: one or two fields a row."""
    dice, author = page.dice, page.author
    start = len(page.sheet.rows)
    makers: dict[str, Callable[[], str]] = {
        "date": author.day,
        "time": author.clock,
        "receipt_number": author.code,
        "cashier": author.first,
        "register": lambda: str(dice.between(1, 24)),
        "table_number": lambda: str(dice.between(1, 60)),
        "guests": lambda: str(dice.between(1, 9)),
        "order_number": author.code,
    }
    ends = dice.chance(0.4)
    keys = dice.some(list(makers), rows + (dice.between(1, rows) if rows > 1 else 0))
    if dice.chance(0.75) and "date" not in keys:
        keys[0] = "date"
    keys = list(dict.fromkeys(keys))
    if dice.chance(0.4):
        keys = dice.shuffled(keys)
    while keys:
        key = keys.pop(0)
        if ends or not keys or dice.chance(0.4):
            page.field(key, makers[key](), None if ends else 0)
            continue
        _two_fields(page, key, makers[key](), keys[0], makers[keys.pop(0)]())
    page.space(dice.uniform(0, 0.6))
    return len(page.sheet.rows) - start


def _two_fields(page: Layout, key: str, value: str, other: str, other_value: str) -> None:
    """Two fields on one row, if they fit; else one below the other."""
    pen = page.style.body
    label, other_label = page.marked(page.label(key)), page.marked(page.label(other))
    space = pen.width("n")
    first, second = (pen.width(name) + space + pen.width(text) for name, text in ((label, value), (other_label, other_value)))
    if first + second + 2 * space > page.width:
        page.field(key, value)
        page.field(other, other_value)
        return
    x = page.right - second
    number = page.line(
        Cell(label, pen, page.left),
        Cell(value, pen, page.left + pen.width(label) + space),
        Cell(other_label, pen, x),
        Cell(other_value, pen, x + pen.width(other_label) + space),
    )
    row = page.sheet.rows[number]
    page.note(key, page.sheet.passage(number, 1), label=page.strip(row[0].text))
    page.note(other, page.sheet.passage(number, 3), label=page.strip(row[2].text))


def _goods(page: Layout, purchase: Purchase) -> None:
    dice, facts = page.dice, page.facts
    upper, signed, coded = dice.chance(0.3), dice.chance(0.2), dice.chance(0.12)
    leader = max(1.0, page.px / 14) if dice.chance(0.12) and not coded else 0.0
    page.right -= 1.6 * page.px * coded
    ends = _columns(page, purchase, signed) if page.family == "columns" else []
    first = len(page.sheet.rows)
    several = any(bought.quantity > 1 for bought in purchase.goods)
    look = Look(signed, several, dice.one("xxx@"), leader, ends)
    for index, bought in enumerate(purchase.goods):
        name = bought.name.upper() if upper else bought.name
        top = page.y
        code = dice.one("AAB1") if coded else ""
        entry = _bought(page, bought, name, look, code)
        facts.entries.append(entry)
        if page.family == "footed" and index % 2:
            page.sheet.fill((page.left - 2, top, page.right + 2, page.y), page.style.tint)
    page.right += 1.6 * page.px * coded
    page.region("items", first, len(page.sheet.rows) - 1)
    facts.counts["items"] = len(purchase.goods)
    facts.absent_items += purchase.absent
    # Where several were bought, "how much is the tea" could mean one or all.
    facts.entry_intents |= {
        "amount": "item_amount" if several else "item_value",
        "price": "item_price",
        "quantity": "item_quantity",
    }
    facts.comparison = "" if several else "more"


def _columns(page: Layout, purchase: Purchase, signed: bool) -> list[float]:
    """The header of item, quantity, price and amount, perhaps on a band; where the three columns of figures end."""
    dice, author, pen = page.dice, page.author, page.style.body
    listed = wordings()["columns"]
    band = dice.chance(0.3)
    head = page.style.on(page.style.accent, page.style.strong) if band else page.style.strong
    texts = {
        "quantity": [str(bought.quantity) for bought in purchase.goods],
        "price": [author.money(bought.price, signed) for bought in purchase.goods],
        "amount": [author.money(bought.amount, signed) for bought in purchase.goods],
    }
    ends: list[float] = []
    cells: list[Cell] = []
    x = page.right
    for key in ("amount", "price", "quantity"):
        word = min(dice.some(listed[key][author.language], 2), key=len)
        ends.insert(0, x)
        cells.insert(0, Cell(word, head, x, 1.0))
        x -= max(head.width(word), *(pen.width(text) for text in texts[key])) + 0.7 * pen.px
    top = page.y
    page.line(Cell(min(listed["item"][author.language], key=len), head, page.left, 0.0, max(x - page.left, 2 * head.px)), *cells)
    if band:
        page.sheet.fill((page.left - 2, top, page.right + 2, page.y), page.style.accent)
    return [x, *ends]


def _bought(page: Layout, bought: Bought, name: str, look: Look, code: str) -> Entry:
    """The row or rows of one sort of goods, in the family's way; `code`: a letter for the tax after the amount, or nothing."""
    author, pen, sheet, left = page.author, page.style.body, page.sheet, page.left
    amount, price = author.money(bought.amount, look.signed), author.money(bought.price, look.signed)
    end = page.right - pen.width(amount) - 0.8 * pen.px
    ending = [Cell(amount, pen, page.right, 1.0)] + [Cell(letter, pen, page.right + 0.6 * pen.px) for letter in code]
    figure = bought.amount / 100
    if page.family == "two rows" and (look.several or page.dice.chance(0.3)):
        number = page.line(Cell(name, pen, left, 0.0, page.width))
        times = f"{look.times} {price}"
        below = page.line(Cell(str(bought.quantity), pen, left + 1.2 * pen.px), Cell(times, pen, left + 3.2 * pen.px), *ending)
        unit = sheet.passage(below, 1)
        cells = {"quantity": sheet.passage(below), "price": unit._replace(start=unit.start + 2), "amount": sheet.passage(below, 2)}
        return Entry(sheet.passage(number), cells, figure)
    if page.family == "columns":
        room = max(look.ends[0] - left, 2 * pen.px)
        figures = (Cell(str(bought.quantity), pen, look.ends[1], 1.0), Cell(price, pen, look.ends[2], 1.0))
        number = page.line(Cell(name, pen, left, 0.0, room), *figures, *ending)
        keys = ("quantity", "price", "amount")
        return Entry(sheet.passage(number), {key: sheet.passage(number, index + 1) for index, key in enumerate(keys)}, figure)
    if page.family in ("quantities", "footed"):
        x = left + pen.width("000")
        number = page.line(Cell(f"{bought.quantity}", pen, left), Cell(name, pen, x, 0.0, end - x), *ending)
        return Entry(sheet.passage(number, 1), {"quantity": sheet.passage(number), "amount": sheet.passage(number, 2)}, figure)
    number = page.line(Cell(name, pen, left, 0.0, end - left), *ending)
    if look.leader:
        page.leader(number, look.leader)
    return Entry(sheet.passage(number), {"amount": sheet.passage(number, 1)}, figure)


def _payment(page: Layout, purchase: Purchase) -> None:
    dice, author = page.dice, page.author
    if dice.chance(0.5):
        page.space(0.3)
    way = dice.between(0, 3)
    if way == 0:
        given = purchase.total + dice.one((0, 100 - purchase.total % 100, 500 - purchase.total % 500, 2000 - purchase.total % 1000))
        page.field("cash", author.money(given), None)
        if given > purchase.total:
            page.field("change", author.money(given - purchase.total), None)
    elif way == 1:
        page.field("payment", phrase("method", author.language, dice), None)
    elif way == 2:
        page.field("card", author.card(), None)


def _foot(page: Layout, align: float, rows: int) -> None:
    """Thanks and terms, and a bar code that nobody reads."""
    dice, author, style = page.dice, page.author, page.style
    page.space(dice.uniform(0.3, 1))
    kinds = dice.some(("thanks", "terms", "website"), rows)
    for kind in kinds:
        pen = style.small if dice.chance(0.3) else style.body
        if kind == "website":
            if not any(field.key == "website" for field in page.facts.fields):
                page.note("website", page.sheet.passage(page.text(author.website(), pen, align)))
            continue
        page.text(phrase(kind, author.language, dice), pen, align)
    if dice.chance(0.25):
        page.space(0.6)
        bar_code(page, page.left + 0.15 * page.width, page.left + 0.85 * page.width, 2.5 * page.px)


def bar_code(page: Layout, left: float, right: float, height: float) -> None:
    """Bars of random widths; moves down."""
    unit = max(1.0, (right - left) / 120)
    x, top = left, page.y
    while x < right:
        wide = page.dice.between(1, 4) * unit
        page.sheet.fill((x, top, x + max(1.0, wide - 1), top + height), page.style.ink)
        x += wide + page.dice.between(1, 3) * unit
    page.y += height
    page.space(0.3)
