"""Invoices: seller, buyer, numbers and dates, a table of goods, sums that add up, how to pay. On paper of a letter's shape."""

from __future__ import annotations

from collections.abc import Callable

from minimonkey.synthetic.kinds.purchase import Purchase, make_purchase, print_totals
from minimonkey.synthetic.kinds.tables import Column, print_table
from minimonkey.synthetic.material.facts import Entry
from minimonkey.synthetic.material.wordings import phrase, wordings
from minimonkey.synthetic.rendering.layout import Cell, Layout
from minimonkey.synthetic.rendering.sheet import Pen

FAMILIES = ("numbers right", "numbers left", "numbers in a row", "title band", "buyer right")
"""Where the numbers and dates stand; "buyer right", with the numbers below the goods, is held out."""
LINES = (16, 48)
PLAUSIBLE = (
    *("due_date", "delivery_date", "order_number", "customer_number", "tax_id", "iban", "phone", "email", "website", "discount"),
    *("shipping", "tax", "subtotal", "ship_to", "reference", "tracking_number", "cashier", "page_number", "card", "birthday"),
)
GOODS_LOOKS = ("ruled", "banded", "striped", "plain", "gridded")


def invoice(page: Layout, lines: int) -> None:
    """About `lines` lines of an invoice."""
    dice, style, family = page.dice, page.style, page.family
    page.facts.plausible = PLAUSIBLE
    page.open(style.body.width("0") * dice.between(52, 84), page.px * dice.uniform(1, 4))
    few = lines < 16
    numbers = dice.between(1, 2) if few else dice.between(2, min(6, max(2, lines // 6)))
    _head(page, few)
    if family == "numbers in a row":
        _parties(page, few)
        _row_of_numbers(page, min(numbers, 4))
    elif family == "buyer right":
        _parties(page, few)
    else:
        left, right = page.parts(1, 1, gap=2)
        first, second = (right, left) if family == "numbers left" else (left, right)
        if family == "numbers left":
            _numbers(second, numbers)
            _buyer(first, "buyer", few)
        else:
            _buyer(first, "buyer", few)
            _numbers(second, numbers)
        page.join([left, right])
    page.space(dice.uniform(0.5, 1.5))
    tail = dice.between(1, 2) if few else dice.between(2, 4)
    printed = len(page.sheet.rows) + 1 + (numbers if family == "buyer right" else 0)
    purchase = make_purchase(
        dice, page.author, max(dice.between(1, 3), lines - printed - 3 - tail), dice.uniform(3.2, 5.4), dice.uniform(0.2, 0.8)
    )
    _goods(page, purchase)
    page.space(dice.uniform(0.3, 1))
    side = page.parts(1, dice.uniform(0.7, 1.2)) if dice.chance(0.8) else page.parts(dice.uniform(0.7, 1.2), 1)[::-1]
    print_totals(side[1], purchase, signed=dice.chance(0.5), band=dice.chance(0.3))
    page.join(side)
    if family == "buyer right":
        page.space(0.8)
        _numbers(page, numbers)
    _foot(page, tail)
    page.close(page.px * dice.uniform(1, 4), page.sheet.width * dice.one((0.0, 0.0, 1.0, 1.29, 1.41)) if lines > 12 else 0)


def _head(page: Layout, few: bool) -> None:
    """The seller with a mark, and the title."""
    dice, author, style = page.dice, page.author, page.style
    title = dice.one(wordings()["titles"]["invoice"][author.language])
    if page.family == "title band":
        top = page.y
        pen = style.on(style.accent, style.head)
        page.space(0.2)
        page.note("title", page.sheet.passage(page.text(title, pen, dice.one((0.0, 0.5, 1.0)))))
        page.space(0.2)
        page.sheet.fill((page.left - 0.5 * page.px, top, page.right + 0.5 * page.px, page.y), style.accent)
        page.space(0.5)
        _seller(page, few)
        return
    left, right = page.parts(1.4, 1)
    first, second = (left, right) if dice.chance(0.7) else (right, left)
    for part in (left, right):
        if part is first:
            if dice.chance(0.5):
                part.logo_above(0.0)
            _seller(part, few)
        else:
            part.note("title", part.sheet.passage(part.text(title, style.head, 1.0 if second is right else 0.0)))
    page.join([left, right])
    page.space(dice.uniform(0.3, 1.2))
    if dice.chance(0.4):
        page.rule()


def _seller(page: Layout, few: bool) -> None:
    dice, author, style = page.dice, page.author, page.style
    first = page.text(author.company(), style.strong)
    page.note("seller", page.sheet.passage(first))
    makers: dict[str, Callable[[], str]] = {
        "phone": author.phone,
        "email": author.email,
        "website": author.website,
        "tax_id": author.tax_id,
    }
    page.text(author.street(), style.body)
    last = page.text(author.town_line(), style.body)
    for key in dice.some(list(makers), 0 if few else dice.between(0, 3)):
        last = page.field(key, makers[key]())
    page.region("seller", first, last)


def _parties(page: Layout, few: bool) -> None:
    """Buyer and, sometimes, where to deliver, side by side."""
    deliver = not few and page.dice.chance(0.4)
    if page.family == "buyer right":
        parts = page.parts(1, 1)
        if deliver:
            _buyer(parts[0], "ship_to", few)
        _buyer(parts[1], "buyer", few)
    else:
        parts = page.parts(1, 1) if deliver else page.parts(1)
        _buyer(parts[0], "buyer", few)
        if deliver:
            _buyer(parts[1], "ship_to", few)
    page.join(parts)
    page.space(0.6)


def _buyer(page: Layout, key: str, few: bool) -> None:
    dice, author, style = page.dice, page.author, page.style
    if dice.chance(0.8):
        page.text(page.marked(page.label(key)), style.strong if dice.chance(0.5) else style.small)
    first = page.text(author.person() if dice.chance(0.6) else author.company(), style.body)
    # The label heads the whole block, so the name isn't asked for by it.
    page.note(key, page.sheet.passage(first))
    if not few and dice.chance(0.2):
        page.text(author.person(), style.body)
    page.text(author.street(), style.body)
    last = page.text(author.town_line(), style.body)
    if not few and dice.chance(0.3):
        last = page.text(author.country(), style.body)
    page.region(key, first, last)


def _makers(page: Layout, count: int) -> dict[str, str]:
    """Numbers and dates of the invoice, by key."""
    author, dice = page.author, page.dice
    makers = {"invoice_number": author.code, "date": author.day, "due_date": author.day, "order_number": author.code}
    makers |= {"customer_number": author.code, "delivery_date": author.day, "reference": author.code}
    keys = dice.some(list(makers), count)
    if count > 1 and dice.chance(0.8):
        keys = ["invoice_number", "date", *(key for key in keys if key not in ("invoice_number", "date"))][:count]
    return {key: makers[key]() for key in dict.fromkeys(keys)}


def _numbers(page: Layout, count: int) -> None:
    """One below the other: beside their labels, or aligned at the right or in a column of their own."""
    style, dice = page.style, page.dice
    strong = style.strong if dice.chance(0.3) else style.body
    at = dice.one((None, 0.0, page.left + page.width * dice.uniform(0.42, 0.55)))
    top = page.y
    for key, value in _makers(page, count).items():
        page.field(key, value, at, (strong, style.body))
    if dice.chance(0.2):
        pad = 0.3 * page.px
        page.sheet.fill((page.left - pad, top - pad, page.right + pad, page.y + pad), None, style.muted)
        page.space(0.4)


def _row_of_numbers(page: Layout, count: int) -> None:
    """Labels in a row, the values below them, in boxes or on a tinted band."""
    style, dice, sheet = page.style, page.dice, page.sheet
    made = _makers(page, count)
    while len(made) > 1 and max(map(style.body.width, made.values())) > page.width / len(made) - 0.6 * page.px:
        made.popitem()
    span = page.width / len(made)
    top = page.y
    labels = {key: page.label(key) for key in made}
    starts = [page.left + index * span + 0.3 * page.px for index in range(len(made))]
    room = span - 0.6 * page.px
    small: Pen = style.small if dice.chance(0.5) else style.strong
    head = page.line(*(Cell(label, small, x, 0.0, room) for label, x in zip(labels.values(), starts, strict=True)))
    below = page.line(*(Cell(value, style.body, x, 0.0, room) for value, x in zip(made.values(), starts, strict=True)))
    for index, key in enumerate(made):
        page.note(key, sheet.passage(below, index), label=sheet.text_of(head, index))
        page.facts.stacked.append((sheet.passage(head, index), sheet.passage(below, index)))
    if dice.chance(0.5):
        sheet.fill((page.left, top, page.right, page.y), style.tint)
    else:
        for index in range(len(made)):
            sheet.fill((page.left + index * span, top, page.left + (index + 1) * span, page.y), None, style.muted)


def _goods(page: Layout, purchase: Purchase) -> None:
    dice, author, facts = page.dice, page.author, page.facts
    words = {key: dice.one(listed[author.language]) for key, listed in wordings()["columns"].items()}
    signed = dice.chance(0.2)
    goods = purchase.goods
    columns = {
        "item": Column(words["item"], [bought.name for bought in goods], 0.0),
        "quantity": Column(words["quantity"], [str(bought.quantity) for bought in goods], dice.one((1.0, 0.5))),
        "price": Column(words["price"], [author.money(bought.price, signed) for bought in goods]),
        "amount": Column(words["amount"], [author.money(bought.amount, signed) for bought in goods]),
    }
    order = ["item", "quantity", "price", "amount"] if dice.chance(0.7) else ["quantity", "item", "price", "amount"]
    printed = print_table(page, [columns[key] for key in order], dice.one(GOODS_LOOKS), dice.uniform(1, 1.4))
    at = order.index("item")
    for bought, row in zip(goods, printed.rows, strict=True):
        cells = {key: page.sheet.passage(row, index) for index, key in enumerate(order) if key != "item"}
        facts.entries.append(Entry(page.sheet.passage(row, at), cells, bought.amount / 100))
    facts.entry_intents |= {"amount": "item_amount", "price": "item_price", "quantity": "item_quantity"}
    facts.absent_items += purchase.absent
    facts.counts |= {"items": len(goods)}
    page.region("items", printed.rows[0], printed.rows[-1])


def _foot(page: Layout, rows: int) -> None:
    dice, author, style = page.dice, page.author, page.style
    page.space(dice.uniform(0.5, 2))
    if dice.chance(0.3):
        page.rule()
    present = {field.key for field in page.facts.fields}
    makers = {
        "iban": author.iban,
        "payment": lambda: phrase("method", author.language, dice),
        "email": author.email,
        "phone": author.phone,
    }
    keys = [key for key in dice.some(list(makers), rows) if key not in present]
    for key in keys:
        page.field(key, makers[key]())
    for _ in range(rows - len(keys)):
        page.text(phrase(dice.one(("terms", "thanks")), author.language, dice), style.small, dice.one((0.0, 0.5)))
