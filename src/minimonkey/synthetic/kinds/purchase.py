"""A purchase that adds up: goods, quantities, prices, discount, tax and total, in cents."""

from __future__ import annotations

from dataclasses import dataclass

from minimonkey.synthetic.material.content import Author, content
from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.rendering.layout import Layout


@dataclass(frozen=True)
class Bought:
    """One line of goods; amount = quantity * price."""

    name: str
    quantity: int
    price: int

    @property
    def amount(self) -> int:
        return self.quantity * self.price


@dataclass(frozen=True)
class Purchase:
    """goods - discount + shipping + (tax, unless the prices hold it already) = total."""

    goods: list[Bought]
    absent: list[str]
    """Names of goods that were not bought."""
    discount: int
    shipping: int
    rate: int
    """Tax in per cent; 0 if none is named."""
    included: bool

    @property
    def subtotal(self) -> int:
        return sum(bought.amount for bought in self.goods)

    @property
    def taxed(self) -> int:
        return self.subtotal - self.discount + self.shipping

    @property
    def tax(self) -> int:
        return round(self.taxed * self.rate / (100 + self.rate if self.included else 100))

    @property
    def total(self) -> int:
        return self.taxed if self.included else self.taxed + self.tax


def make_purchase(dice: Dice, author: Author, count: int, dear: float, several: float) -> Purchase:
    """`count` goods or a little fewer, at up to 10 ** `dear` cents; `several`: how often more than one of a sort is bought."""
    names = author.different(count + 3)
    kept = names[: max(1, len(names) - 3)]
    goods = []
    for name in kept:
        cents = round(10 ** dice.uniform(1.7, dear))
        if dice.chance(0.6):
            cents = max(5, cents - cents % 5) - (cents % 10 == 0 and dice.chance(0.4))
        quantity = dice.between(2, dice.one((3, 6, 12))) if dice.chance(several) else 1
        goods.append(Bought(name, quantity, max(1, cents)))
    whole = sum(bought.amount for bought in goods)
    return Purchase(
        goods,
        names[len(kept) :],
        discount=round(whole * dice.one((5, 10, 15, 20)) / 100) if dice.chance(0.15) else 0,
        shipping=dice.one((290, 495, 500, 799, 1250)) if dice.chance(0.12) else 0,
        rate=dice.one(content()["rates"][author.language]) if dice.chance(0.7) else 0,
        included=author.language != "en" or dice.chance(0.3),
    )


def print_totals(page: Layout, purchase: Purchase, signed: bool, band: bool, at: float | None = None) -> None:
    """The sums below the goods, each a pair; the total stands out."""
    dice, author, style = page.dice, page.author, page.style
    first = len(page.sheet.rows)
    plain = (style.body, style.body)
    leader = max(1.0, page.px / 14) if dice.chance(0.12) else 0.0

    def row(key: str, cents: int, strong: bool = False) -> None:
        pens = plain
        top = page.y
        if strong:
            pen = style.strong if not band else style.on(style.accent, style.strong)
            pens = (pen, pen)
        value = author.money(cents, signed or strong)
        rate = f" {purchase.rate}%" if key == "tax" and not dice.chance(0.3) else ""
        label = page.label(key, page.width - style.strong.width(value + rate) - 2 * page.px)
        number = page.pair(page.marked(label + rate), value, at, pens, 0.0 if strong else leader)
        page.note(key, page.sheet.passage(number, 1), label=page.strip(page.sheet.rows[number][0].text))
        if strong and band:
            pad = 0.4 * page.px
            page.sheet.fill((page.left - pad, top, page.right + pad, page.y), style.accent)

    parts = purchase.discount or purchase.shipping or not purchase.included
    if parts or dice.chance(0.4):
        row("subtotal", purchase.subtotal)
    if purchase.discount:
        row("discount", -purchase.discount)
    if purchase.shipping:
        row("shipping", purchase.shipping)
    late = purchase.included and dice.chance(0.5)
    if purchase.rate and not late:
        row("tax", purchase.tax)
    row("total", purchase.total, strong=True)
    if purchase.rate and late:
        row("tax", purchase.tax)
    page.region("totals", first, len(page.sheet.rows) - 1)
