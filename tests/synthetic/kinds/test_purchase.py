"""Purchases add up, in cents and as printed."""

from __future__ import annotations

import re
from collections.abc import Callable

from minimonkey.synthetic import document, questions
from minimonkey.synthetic.kinds.purchase import Bought, Purchase


def test_a_purchase_adds_up() -> None:
    goods = [Bought("Tea", 3, 250), Bought("Milk", 1, 99)]
    plain = Purchase(goods, [], discount=49, shipping=500, rate=20, included=False)
    assert (plain.subtotal, plain.taxed, plain.tax, plain.total) == (849, 1300, 260, 1560)
    included = Purchase(goods, [], discount=49, shipping=500, rate=20, included=True)
    assert (included.tax, included.total) == (217, 1300)
    assert Purchase(goods, [], 0, 0, 0, False).total == 849


def cents(text: str) -> int:
    """What a printed amount is worth."""
    return int(re.sub(r"[^\d-]", "", text))


def test_printed_sums_add_up(make: Callable[..., document.Document], askers: list[questions.Asker]) -> None:
    """The amounts of the goods, the sums below them, the change: all as they are printed."""
    seen = {"total": 0, "change": 0, "tax": 0}
    for kind in ("receipt", "invoice"):
        for seed in range(20):
            made = make(seed, kind, size_px=(9, 12))
            asker = askers[-1]
            fields = {field.key: asker.page.text(field.value[0]) for field in asker.facts.fields}
            whole = sum(cents(asker.page.text(entry.cells["amount"])) for entry in asker.facts.entries)
            for entry in asker.facts.entries:
                if "price" in entry.cells:
                    quantity = int(asker.page.text(entry.cells["quantity"]))
                    assert quantity * cents(asker.page.text(entry.cells["price"])) == cents(
                        asker.page.text(entry.cells["amount"])
                    ), made.text
            assert round(100 * sum(entry.figure or 0 for entry in asker.facts.entries)) == whole
            assert cents(fields.get("subtotal", str(whole))) == whole, made.text
            rest = whole + cents(fields.get("discount", "0")) + cents(fields.get("shipping", "0"))
            tax = cents(fields.get("tax", "0"))
            assert cents(fields["total"]) in (rest, rest + tax), made.text
            seen["total"] += 1
            seen["tax"] += "tax" in fields
            if "change" in fields:
                assert cents(fields["cash"]) - cents(fields["change"]) == cents(fields["total"]), made.text
                seen["change"] += 1
    assert min(seen.values()) > 1 and seen["tax"] > 15, seen
