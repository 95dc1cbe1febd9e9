"""Rendered documents whose every printed character has a known place, with questions and their answers.

seed --> kind, family, language, style --> facts and rows on a sheet --> painted, laid, worn --> questions
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minimonkey.errors import UsageError, unknown
from minimonkey.synthetic.kinds import charts, forms, invoices, letters, pages, receipts, screens, signs, tables
from minimonkey.synthetic.material.content import LANGUAGES, Author
from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.material.facts import Facts
from minimonkey.synthetic.material.typefaces import Split, Typeface, available
from minimonkey.synthetic.material.words import Vocabulary, vocabulary
from minimonkey.synthetic.questions import LONGEST, SHORTEST, Asker, Question
from minimonkey.synthetic.rendering.layout import Layout
from minimonkey.synthetic.rendering.lines import Sample
from minimonkey.synthetic.rendering.sheet import Sheet
from minimonkey.synthetic.rendering.style import make_style
from minimonkey.synthetic.rendering.wear import laid, worn


class Sort(NamedTuple):
    """A kind of document: what draws it, its layout families (the last one is held out), its usual number of lines, its looks."""

    write: Callable[[Layout, int], None]
    families: tuple[str, ...]
    lines: tuple[int, int]
    weight: float = 1.0
    mono: float = 0.1
    dark: float = 0.02
    white: float = 0.5
    clean: float = 0.15
    turned: float = 0.3


SORTS = {
    "receipt": Sort(receipts.receipt, receipts.FAMILIES, receipts.LINES, 2.0, mono=0.45),
    "invoice": Sort(invoices.invoice, invoices.FAMILIES, invoices.LINES, 1.5, white=0.65),
    "form": Sort(forms.form, forms.FAMILIES, forms.LINES, 1.5, white=0.65),
    "letter": Sort(letters.letter, letters.FAMILIES, letters.LINES, white=0.75, mono=0.05),
    "page": Sort(pages.text_page, pages.FAMILIES, pages.LINES, 1.2, white=0.7, mono=0.05),
    "label": Sort(signs.label, signs.LABEL_FAMILIES, signs.LABEL_LINES, 0.6),
    "sign": Sort(signs.sign, signs.SIGN_FAMILIES, signs.SIGN_LINES, 0.5, white=0.3, dark=0.15),
    "screen": Sort(screens.screen, screens.FAMILIES, screens.LINES, white=0.35, dark=0.25, clean=0.6, turned=0.08),
    "chart": Sort(charts.chart, charts.FAMILIES, charts.LINES, 0.8, white=0.8, dark=0.05, clean=0.5, turned=0.08),
    "table": Sort(tables.table, tables.FAMILIES, tables.LINES, white=0.65),
}
KINDS = tuple(SORTS)
TRIES = 12
SHORTEST_PX = 300
"""The longer side of a document at least."""


@dataclass(frozen=True)
class Document(Sample):
    """An RGB picture, its lines in reading order, and questions about it."""

    kind: str
    questions: list[Question]

    def smallest_print(self, question: Question) -> float:
        """The x-height, in pixels of the picture, of the smallest print that the answer is read from, or of all lines."""
        asked = {source[0] for source in question.sources if source is not None} or range(len(self.lines))
        return min((self.lines[line].x_height_px for line in asked), default=0.0)


def make_document(
    seed: int,
    kind: str | None = None,
    *,
    split: Split = "train",
    size_px: tuple[float, float] = (9, 40),
    lines: tuple[int, int] | None = None,
    max_side_px: int = 1800,
    uniform: bool = False,
    most_questions: int = LONGEST,
    typefaces: Sequence[Typeface] | None = None,
    words: Vocabulary | None = None,
) -> Document:
    """A document of random layout, the same for the same arguments (given the same typefaces, words and Pillow).

    Args:
        kind: one of KINDS, or None for a random one.
        size_px: smallest and largest em of all print, in pixels; that of the body is drawn log-uniformly, or uniformly with
            `uniform`, among those that let the document fit.
        lines: fewest and most printed lines, about; the kind's usual number by default.
        max_side_px: the longer side at most. Print becomes smaller, then text less, until a document fits.
        most_questions: 6 or more; there may be less to ask.
        typefaces, words: default to whatever of the split is there (material.py).

    Raises:
        UsageError: an unknown kind, or a wrong range.
        DataError: a font or an installed text is broken.
    """
    _check(kind, size_px, lines, max_side_px, most_questions)
    dice = Dice(np.random.default_rng([seed, zlib.crc32(f"document {kind} {split}".encode())]))
    kind = kind or dice.weighted({name: sort.weight for name, sort in SORTS.items()})
    typefaces = list(available(split) if typefaces is None else typefaces)
    words = vocabulary(split) if words is None else words
    sort = SORTS[kind]
    low, high = lines or sort.lines
    count = round(low * (high / low) ** dice.uniform(0, 1)) if lines is None else dice.between(low, high)
    # Paper is rarely taller than it has to be: print that large would never fit.
    most = min(size_px[1], max(size_px[0], max_side_px / (1.5 * count + 4)))
    share = dice.uniform(0, 1)
    px = size_px[0] + (most - size_px[0]) * share if uniform else size_px[0] * (most / size_px[0]) ** share
    angle = math.radians(dice.uniform(-3, 3)) if dice.chance(sort.turned) else 0.0
    for _ in range(TRIES):
        page = _write(dice, kind, split, px, size_px, count, max_side_px, typefaces, words)
        place, size = page.sheet.placed(angle)
        if max(size) <= max_side_px:
            break
        px, count = max(size_px[0], 0.88 * px), max(3, count - (px <= 1.1 * size_px[0]) * max(1, count // 8))
    return _finish(dice, page, angle, most_questions)


def _check(
    kind: str | None, size_px: tuple[float, float], lines: tuple[int, int] | None, max_side_px: int, most_questions: int
) -> None:
    """Raise UsageError for settings that no document can be made of."""
    if kind is not None and kind not in SORTS:
        raise UsageError(unknown("unknown kind of document", kind, KINDS))
    if not 4 <= size_px[0] <= size_px[1]:
        raise UsageError(f"size_px is {size_px}: expected (smallest, largest) with 4 <= smallest <= largest")
    if most_questions < SHORTEST:
        raise UsageError(f"most_questions is {most_questions}: expected {SHORTEST} or more")
    if lines is not None and not 1 <= lines[0] <= lines[1]:
        raise UsageError(f"lines is {lines}: expected (fewest, most) with 1 <= fewest <= most")
    if max_side_px < SHORTEST_PX:
        raise UsageError(f"max_side_px is {max_side_px}: expected {SHORTEST_PX} or more")


def _write(
    dice: Dice,
    kind: str,
    split: Split,
    px: float,
    size_px: tuple[float, float],
    count: int,
    limit: int,
    typefaces: list[Typeface],
    words: Vocabulary,
) -> Layout:
    """The rows and facts of a document."""
    sort = SORTS[kind]
    families = sort.families if split == "held_out" else sort.families[:-1]
    language = dice.weighted(LANGUAGES)
    style = make_style(dice, typefaces, px, size_px, mono=sort.mono, dark=sort.dark, white=sort.white)
    author = Author(dice, words, language)
    page = Layout(dice, author, style, Sheet(), Facts(kind, language), dice.one(families), limit)
    sort.write(page, count)
    if max(page.sheet.width, page.sheet.height) < SHORTEST_PX:
        page.sheet.height = float(SHORTEST_PX)  # blank paper below
    return page


def _finish(dice: Dice, page: Layout, angle: float, most_questions: int) -> Document:
    """Paint, lay, wear; then read the lines and ask."""
    sheet, style, kind = page.sheet, page.style, page.facts.kind
    place, size = sheet.placed(angle)
    shade = dice.between(20, 230)
    desk = style.paper if dice.chance(0.5) else (shade, dice.between(shade // 2, shade), dice.between(shade // 3, shade))
    picture = worn(dice, laid(sheet.paint(style.paper), place, size, desk), style.body.px, SORTS[kind].clean)
    asker = Asker(dice, page.author, sheet, page.facts, lambda passage: sheet.box(passage, place), size)
    return Document(picture, sheet.lines(place), kind, asker.ask(most_questions))
