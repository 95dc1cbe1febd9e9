"""Labels on goods and parcels, and signs on walls and doors: little text, much of it large, on colour."""

from __future__ import annotations

from collections.abc import Callable

from minimonkey.synthetic.kinds.receipts import bar_code
from minimonkey.synthetic.material.facts import Entry
from minimonkey.synthetic.material.wordings import phrase
from minimonkey.synthetic.rendering.layout import Layout
from minimonkey.synthetic.rendering.sheet import Pen

LABEL_FAMILIES = ("goods", "parcel", "price", "envelope", "tag")
"""What is labelled; "tag", centred between rules, is held out."""
SIGN_FAMILIES = ("panel", "directory", "hours", "poster", "framed")
"""What a sign looks like; "framed", a notice in a double frame, is held out."""
LABEL_LINES, SIGN_LINES = (3, 14), (1, 10)
LABEL_PLAUSIBLE = (
    *("weight", "best_before", "batch", "article_number", "serial_number", "tracking_number", "origin", "price", "sender"),
    *("recipient", "phone", "website", "date"),
)
SIGN_PLAUSIBLE = ("opening", "phone", "website", "email", "price", "date", "address")
LEAST_PX = 300.0
"""The width of a label or a sign at least."""
DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "de": ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"),
    "fr": ("lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"),
    "es": ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"),
    "it": ("lunedì", "martedì", "mercoledì", "giovedì", "venerdì", "sabato", "domenica"),
    "nl": ("maandag", "dinsdag", "woensdag", "donderdag", "vrijdag", "zaterdag", "zondag"),
    "pt": ("segunda", "terça", "quarta", "quinta", "sexta", "sábado", "domingo"),
}


def label(page: Layout, lines: int) -> None:
    """A label of about `lines` lines."""
    dice, style = page.dice, page.style
    page.facts.plausible = LABEL_PLAUSIBLE
    page.open(style.body.width("0") * dice.between(24, 40), page.px * dice.uniform(0.6, 1.6), LEAST_PX)
    if page.family == "parcel":
        _parcel(page)
    elif page.family == "envelope":
        _envelope(page)
    elif page.family == "price":
        _price(page)
    else:
        _goods(page, lines)
    page.close(page.px * dice.uniform(0.6, 1.6))
    if dice.chance(0.5):
        inset = 0.25 * page.px
        box = (inset, inset, page.sheet.width - inset, page.sheet.height - inset)
        page.sheet.fill(box, None, style.ink, max(1.0, page.px / 14), page.px * dice.one((0.0, 0.6)))


def _makers(page: Layout) -> dict[str, Callable[[], str]]:
    """Particulars that the label may have, by key."""
    author, dice = page.author, page.dice
    makers: dict[str, Callable[[], str]] = {
        "weight": lambda: (
            f"{dice.between(1, 40) * 25} g" if dice.chance(0.6) else f"{dice.between(1, 9)}{author.comma}{dice.between(0, 9)} kg"
        ),
        "best_before": author.day,
        "batch": author.code,
        "article_number": author.code,
        "serial_number": author.code,
        "origin": author.country,
        "website": author.website,
    }
    return {key: maker for key, maker in makers.items() if key in page.facts.plausible}


def _title(page: Layout, pen: Pen, align: float) -> None:
    """What the label is on; where that names a measure, nothing is said of its weight."""
    item = page.author.item()
    page.note("title", page.sheet.passage(page.text(item, pen, align)))
    if any(character.isdigit() for character in item):
        page.facts.plausible = [key for key in LABEL_PLAUSIBLE if key != "weight"]


def _goods(page: Layout, lines: int) -> None:
    """A brand, what it is, particulars, a bar code."""
    dice, author, style = page.dice, page.author, page.style
    tag = page.family == "tag"
    align = 0.5 if tag or dice.chance(0.4) else 0.0
    if dice.chance(0.4):
        page.logo_above(align)
    _title(page, style.head, align)
    if lines > 4:
        first, last = page.paragraph(author.prose(dice.between(20, 90)), style.small, min(4, lines // 3), align)
        page.region("text", first, last)
    if tag:
        page.rule()
    makers = _makers(page)
    for key in dice.some(list(makers), max(1, lines - len(page.sheet.rows) - 1)):
        page.field(key, makers[key](), None if dice.chance(0.2) else 0)
    if tag:
        page.rule()
    if dice.chance(0.6):
        page.space(0.4)
        bar_code(page, page.left + 0.1 * page.width, page.right - 0.1 * page.width, page.px * dice.uniform(2, 4))
        page.text(author.pattern("9 999999 999999"), style.small, 0.5)


def _block(page: Layout, key: str, large: bool) -> None:
    """A label and an address below it."""
    author, dice = page.author, page.dice
    pen = page.style.strong if large else page.style.small
    page.text(page.marked(page.label(key)), page.style.small)
    first = page.text(author.person() if dice.chance(0.6) else author.company(), pen)
    page.note(key, page.sheet.passage(first))
    page.text(author.street(), pen)
    last = page.text(author.town_line(), pen)
    page.region(key, first, last)


def _parcel(page: Layout) -> None:
    author, dice, style = page.author, page.dice, page.style
    _block(page, "sender", False)
    page.rule()
    _block(page, "recipient", True)
    page.rule()
    makers = _makers(page)
    if dice.chance(0.6):
        page.field("weight", makers["weight"]())
    page.space(0.4)
    bar_code(page, page.left, page.right, page.px * dice.uniform(2.5, 5))
    if dice.chance(0.6):
        page.field("tracking_number", author.pattern("AA 9999 9999 9999"))
    else:
        page.note("tracking_number", page.sheet.passage(page.text(author.pattern("AA 9999 9999 9999"), style.body, 0.5)))


def _price(page: Layout) -> None:
    author, dice, style = page.author, page.dice, page.style
    _title(page, style.strong, 0.0)
    if dice.chance(0.5):
        page.text(author.prose(24), style.small)
    band, top = dice.chance(0.5), page.y
    pen = style.on(style.accent, style.head) if band else style.head
    number = page.text(author.money(dice.between(20, 29999), True), pen, 1.0)
    page.note("price", page.sheet.passage(number))
    if band:
        page.sheet.fill((page.left - 0.3 * page.px, top, page.right + 0.3 * page.px, page.y), style.accent)
        page.space(0.2)
    makers = _makers(page)
    keys = [key for key in ("article_number", "origin", "weight") if key in makers]
    for key in dice.some(keys, dice.between(0, 2)):
        page.field(key, makers[key](), pens=(style.small, style.small))


def _envelope(page: Layout) -> None:
    author, dice, style = page.author, page.dice, page.style
    first = page.text(author.company(), style.small)
    page.note("sender", page.sheet.passage(first))
    page.text(author.street(), style.small)
    page.region("sender", first, page.text(author.town_line(), style.small))
    stamp = (page.right - 3 * page.px, page.y - 3 * page.px, page.right, page.y)
    page.sheet.fill(stamp, style.tint, style.accent, 2)
    page.space(dice.uniform(1.5, 4))
    page.left += dice.uniform(0.2, 0.4) * page.width
    first = page.text(author.person(), style.body)
    page.note("recipient", page.sheet.passage(first))
    page.text(author.street(), style.body)
    page.region("recipient", first, page.text(author.town_line(), style.body))


def sign(page: Layout, lines: int) -> None:
    """A sign of about `lines` lines."""
    dice, style = page.dice, page.style
    page.facts.plausible = SIGN_PLAUSIBLE
    page.open(
        style.body.width("0") * dice.between(18 if page.family == "panel" else 26, 36), page.px * dice.uniform(0.8, 2.5), LEAST_PX
    )
    makers: dict[str, Callable[[Layout, int], None]] = {
        "directory": _directory,
        "hours": _hours,
        "poster": _poster,
        "framed": _poster,
    }
    makers.get(page.family, _panel)(page, lines)
    page.close(page.px * dice.uniform(0.8, 2.5))
    width, height = page.sheet.width, page.sheet.height
    if page.family == "framed":
        for inset in (0.2 * page.px, 0.5 * page.px):
            page.sheet.fill((inset, inset, width - inset, height - inset), None, style.accent, max(1.0, page.px / 12))
    elif page.family != "panel" and dice.chance(0.4):
        page.sheet.fill((2, 2, width - 3, height - 3), None, style.accent, max(2.0, page.px / 5), page.px * dice.one((0.0, 0.8)))


def _panel(page: Layout, lines: int) -> None:
    """A few words, large, on a coloured panel."""
    dice, author, style = page.dice, page.author, page.style
    pen = style.on(style.accent, style.head)
    page.space(0.8)
    words = phrase("signs", author.language, dice)
    rows = pen.wrap(words.upper() if dice.chance(0.4) else words, page.width, 4)
    for row in rows:
        page.text(row, pen, 0.5)
    for _ in range(min(lines - len(rows), 3)):
        page.text(author.prose(16).rstrip("."), style.on(style.accent, style.body), 0.5)
    page.space(0.8)
    edge = 0.3 * page.px
    box = (edge, edge, page.sheet.width - edge, page.y + edge)
    page.sheet.fill(box, style.accent, radius=page.px * dice.one((0.0, 0.7)))


def _directory(page: Layout, lines: int) -> None:
    """Names and rooms."""
    dice, author, style, facts = page.dice, page.author, page.style, page.facts
    page.note("heading", page.sheet.passage(page.text(author.heading(), style.head)))
    page.rule()
    names: list[str] = []
    for _ in range(max(2, lines - 1) + 2):
        name = dice.one((author.person, author.name_word, author.company))()
        if not any(name in other or other in name for other in names):
            names.append(name)
    kept, facts.absent_items = names[: max(2, len(names) - 2)], names[max(2, len(names) - 2) :]
    rooms = dice.some(range(1, 400), len(kept))
    for name, room in zip(kept, rooms, strict=True):
        number = page.pair(name, f"{room}" if dice.chance(0.8) else f"{room // 100}.{room % 100:02}", None)
        facts.entries.append(Entry(page.sheet.passage(number), {"room": page.sheet.passage(number, 1)}))
    facts.entry_intents["room"], facts.absent_intent = "room", "room"
    facts.counts["entries"] = len(kept)


def _hours(page: Layout, lines: int) -> None:
    """The week's opening hours."""
    dice, author, style, facts = page.dice, page.author, page.style, page.facts
    if dice.chance(0.5):
        page.note("seller", page.sheet.passage(page.text(author.company(), style.strong, 0.5)))
    page.text(page.label("opening"), style.head, dice.one((0.0, 0.5)))
    page.space(0.3)
    days = DAYS[author.language]
    kept = list(days[: dice.between(4, 7)])
    at = dice.one((None, None, page.left + 0.45 * page.width))
    facts.absent_items = [day for day in days if day not in kept]
    for day in kept:
        opens, closes = dice.between(6, 11), dice.between(12, 22)
        if author.language == "en" and dice.chance(0.3):
            hours = f"{opens} am - {closes - 12 or 12} pm"
        else:
            hours = f"{opens}:{dice.one(('00', '30'))} - {closes}:{dice.one(('00', '30', '45'))}"
        number = page.pair(day, hours, at)
        facts.entries.append(Entry(page.sheet.passage(number), {"hours": page.sheet.passage(number, 1)}))
    facts.entry_intents["hours"], facts.absent_intent = "hours", "hours"
    facts.fields = [field for field in facts.fields if field.key != "opening"]
    facts.plausible = [key for key in SIGN_PLAUSIBLE if key != "opening"]
    if lines > 8:
        page.space(0.4)
        page.field("phone", author.phone())


def _poster(page: Layout, lines: int) -> None:
    """A heading, when and where, some words."""
    dice, author, style = page.dice, page.author, page.style
    align = dice.one((0.5, 0.5, 0.0))
    heading = author.heading() if dice.chance(0.6) else phrase("signs", author.language, dice)
    rows = [page.text(row, style.head, align) for row in style.head.wrap(heading, page.width, 3)]
    page.note("heading", *map(page.sheet.passage, rows))
    page.space(0.3)
    makers = {"date": author.day, "time": author.clock, "phone": author.phone, "website": author.website, "email": author.email}
    keys = dice.some(list(makers), max(1, min(4, lines - 3)))
    for key in keys:
        number = page.text(makers[key](), style.strong if dice.chance(0.3) else style.body, align)
        page.note(key, page.sheet.passage(number))
    if lines > 4:
        page.space(0.3)
        first, last = page.paragraph(author.prose(dice.between(30, 120)), style.body, max(1, lines - len(page.sheet.rows)), align)
        page.region("bottom", first, last)
