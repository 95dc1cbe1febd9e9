"""Letters: sender, recipient, date, subject, greeting, paragraphs, a signature. On paper of a letter's shape."""

from __future__ import annotations

from minimonkey.synthetic.kinds.forms import BLUE, scribble
from minimonkey.synthetic.material.wordings import phrase
from minimonkey.synthetic.rendering.layout import Layout

FAMILIES = ("sender right", "sender centred", "sender left", "memo", "sender below")
"""Where the sender stands; "sender below", at the foot of the page, is held out."""
LINES = (10, 46)
PLAUSIBLE = (
    *(
        "subject",
        "reference",
        "date",
        "phone",
        "email",
        "website",
        "invoice_number",
        "customer_number",
        "due_date",
        "total",
        "iban",
    ),
    *("signer", "tracking_number", "order_number", "birthday", "tax_id"),
)


def letter(page: Layout, lines: int) -> None:
    """About `lines` lines of a letter."""
    dice, author, style, facts = page.dice, page.author, page.style, page.facts
    facts.plausible = PLAUSIBLE
    page.open(style.body.width("n") * dice.between(46, 78), page.px * dice.uniform(1.2, 5))
    few = lines < 15
    name = author.person()
    if page.family == "memo":
        to = author.person()
        _memo(page, name, to)
    else:
        if page.family != "sender below":
            _sender(page, few)
        to = _recipient(page)
        _date(page)
        if not few and dice.chance(0.4):
            page.field("reference", author.code())
        if dice.chance(0.6):
            _subject(page)
    page.space(0.6)
    page.text(phrase("greeting", author.language, dice).format(to), style.body)
    page.space(0.4)
    signed = dice.chance(0.85)
    foot = 4 if page.family == "sender below" else 0
    _body(page, max(2, lines - len(page.sheet.rows) - 2 * signed - foot))
    if signed:
        _close(page, name)
    if foot:
        page.space(1)
        page.rule()
        _sender(page, few)
    page.close(page.px * dice.uniform(1, 4), page.sheet.width * dice.one((0.0, 0.0, 1.29, 1.41)) if lines > 16 else 0)


def _sender(page: Layout, few: bool) -> None:
    dice, author, style = page.dice, page.author, page.style
    align = {"sender right": 1.0, "sender centred": 0.5}.get(page.family, 0.0)
    if dice.chance(0.3):
        page.logo_above(align)
    first = page.text(author.company() if dice.chance(0.6) else author.person(), style.strong, align)
    page.note("sender", page.sheet.passage(first))
    pen = style.small if dice.chance(0.5) else style.body
    page.text(author.street(), pen, align)
    last = page.text(author.town_line(), pen, align)
    if not few:
        for key, value in (("phone", author.phone), ("email", author.email), ("website", author.website)):
            if dice.chance(0.3):
                last = page.text(value(), pen, align)
                page.note(key, page.sheet.passage(last))
    page.region("sender", first, last)
    page.space(dice.uniform(0.5, 2))


def _recipient(page: Layout) -> str:
    author, dice, style = page.author, page.dice, page.style
    name = author.person()
    first = page.text(name, style.body)
    page.note("recipient", page.sheet.passage(first))
    if dice.chance(0.3):
        page.text(author.company(), style.body)
    page.text(author.street(), style.body)
    last = page.text(author.town_line(), style.body)
    if dice.chance(0.2):
        last = page.text(author.country(), style.body)
    page.region("recipient", first, last)
    page.space(dice.uniform(0.5, 1.5))
    return name


def _date(page: Layout) -> None:
    author, dice = page.author, page.dice
    if dice.chance(0.25):
        page.field("date", author.day())
        return
    number = page.text(author.day(), page.style.body, dice.one((0.0, 1.0, 1.0)))
    page.note("date", page.sheet.passage(number))
    page.space(dice.uniform(0.2, 0.8))


def _subject(page: Layout) -> None:
    dice, style = page.dice, page.style
    text = page.author.heading()
    if dice.chance(0.6):
        page.field("subject", text, 0, (style.strong, style.strong))
    else:
        page.note("subject", page.sheet.passage(page.text(text, style.strong)))


def _memo(page: Layout, name: str, to: str) -> None:
    """Who, to whom, when and about what, as pairs."""
    dice, author, style = page.dice, page.author, page.style
    page.note("title", page.sheet.passage(page.text(dice.one(("MEMO", "Memorandum", "FAX", "NOTE", "Minutes")), style.head)))
    page.space(0.4)
    at = page.left + dice.uniform(0.14, 0.3) * page.width
    values = {"recipient": to, "sender": name, "date": author.day(), "subject": author.heading()}
    for key in dice.shuffled(list(values)) if dice.chance(0.4) else values:
        page.field(key, values[key], at, (style.strong, style.body))
    page.rule()


def _body(page: Layout, rows: int) -> None:
    dice, author, style = page.dice, page.author, page.style
    justified, air = dice.chance(0.3), dice.uniform(0.3, 1)
    count = 0
    first, last = 0, 0
    while rows > 0:
        text = author.prose(dice.between(60, 420))
        first, last = page.paragraph(text, style.body, rows, justified=justified)
        rows -= last - first + 1
        count += 1
        if count <= 3:
            page.region(f"paragraph_{count}", first, last)
        page.space(air)
    if count > 1:
        page.region("paragraph_last", first, last)


def _close(page: Layout, name: str) -> None:
    dice, author, style = page.dice, page.author, page.style
    page.space(0.4)
    page.text(phrase("closing", author.language, dice), style.body)
    if dice.chance(0.6):
        path = scribble(dice, page.left, page.y + 1.2 * page.px, 7 * page.px, 1.5 * page.px)
        page.sheet.draw(lambda draw: draw.line(path, BLUE, max(1, round(page.px / 12)), joint="curve"))
        page.space(2.4)
    number = page.text(name, style.body)
    page.note("signer", page.sheet.passage(number))
