"""The look of one document: its paper, colours and pens. Colours that text is printed in stay readable at the size of the print."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.material.typefaces import Typeface, face
from minimonkey.synthetic.rendering.degrade import LUMA
from minimonkey.synthetic.rendering.sheet import Colour, Pen

INSTEAD = {
    "€": "EUR",
    "£": "GBP",
    "¥": "JPY",
    "–": "-",
    "—": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "…": "...",
    "ß": "ss",
    "@": "(at)",
    "&": "+",
}
INSTEAD |= {"Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe", "Ø": "O", "ø": "o", "•": "-", "·": "-", "×": "x", "«": '"', "»": '"'}
"""What is set for a character that a typeface lacks; accents fall off their letters, anything else is left out."""


RED, BLUE, GREEN, ORANGE = (200, 30, 40), (20, 90, 170), (10, 120, 70), (230, 120, 20)
VIOLET, NAVY, TEAL, GREY = (110, 50, 140), (30, 40, 70), (0, 130, 140), (60, 60, 60)
ACCENTS: tuple[Colour, ...] = (RED, BLUE, GREEN, ORANGE, VIOLET, NAVY, TEAL, GREY)


def substitutes(lacks: str) -> dict[int, str]:
    """For `str.translate`: each lacking character, and what the typeface has for it."""
    table = {}
    for character in lacks:
        plain = INSTEAD.get(character) or unicodedata.normalize("NFKD", character)[0]
        table[ord(character)] = plain if plain.isascii() and plain != character and not set(plain) & set(lacks) else ""
    return table


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the way from one colour to the other."""
    r, g, b = (round(a + (z - a) * share) for a, z in zip(one, other, strict=True))
    return r, g, b


def luma(colour: Colour) -> float:
    return float(np.asarray(colour, dtype=np.float32) @ LUMA)


def readable(ink: Colour, paper: Colour, contrast: float) -> Colour:
    """`ink`, or as much darker or lighter as it takes to be `contrast` levels of luma apart from `paper`."""
    extreme = (0, 0, 0) if luma(paper) > 127 else (255, 255, 255)
    for share in (0.0, 0.2, 0.4, 0.6, 0.8):
        if abs(luma(mix(ink, extreme, share)) - luma(paper)) >= contrast:
            return mix(ink, extreme, share)
    return extreme


@dataclass(frozen=True)
class Style:
    """Pens by their use, each at most `largest` and at least `smallest` pixels; colours by theirs."""

    paper: Colour
    ink: Colour
    muted: Colour
    accent: Colour
    on_accent: Colour
    tint: Colour
    """A shade of the paper that `ink` and `muted` can be read on."""
    body: Pen
    strong: Pen
    head: Pen
    small: Pen
    contrast: float
    leading: float
    """From baseline to baseline, in ems."""

    def on(self, fill: Colour, pen: Pen) -> Pen:
        """The pen in a colour that can be read on `fill`."""
        light = luma(fill) < 140
        return pen.tinted(
            readable((255, 255, 255) if light else self.ink if luma(self.ink) < 127 else (20, 20, 20), fill, self.contrast)
        )


def _files(typeface: Typeface) -> tuple[list[str], list[str], list[str]]:
    """Upright, bold and slanted font files; each list has one at least."""
    slanted = [file for file in typeface.files if any(word in file.lower() for word in ("italic", "oblique", "slanted"))]
    upright = [file for file in typeface.files if file not in slanted] or list(typeface.files)
    bold = [file for file in upright if any(word in file.lower() for word in ("bold", "black", "heavy"))]
    plain = [file for file in upright if file not in bold] or upright
    return plain, bold or plain, slanted or plain


def _colours(dice: Dice, dark_share: float, white_share: float) -> tuple[Colour, Colour, Colour]:
    """Paper, ink and accent."""
    if dice.chance(white_share):
        grey = dice.between(246, 255)
        paper: Colour = (grey, grey, grey)
    elif dice.chance(0.6):
        low = dice.between(225, 248)
        paper = (low, min(255, low - dice.between(-3, 6)), low - dice.between(2, 16))
    else:
        paper = (dice.between(190, 255), dice.between(190, 255), dice.between(175, 255))
    grey = dice.between(0, 60)
    ink: Colour = (grey, grey, grey)
    if dice.chance(0.25):
        ink = (dice.between(0, 90), dice.between(0, 90), dice.between(0, 150))
    elif dice.chance(0.15):
        grey = dice.between(60, 120)
        ink = (grey, grey, dice.between(grey, grey + 20))
    accent = mix(dice.one(ACCENTS), (dice.between(0, 255), dice.between(0, 255), dice.between(0, 255)), 0.2)
    if dice.chance(dark_share):
        paper, ink = mix(paper, (20, 22, 28), dice.uniform(0.8, 1)), mix(ink, (240, 240, 240), dice.uniform(0.8, 1))
    return paper, ink, accent


def make_style(
    dice: Dice,
    typefaces: list[Typeface],
    px: float,
    size_px: tuple[float, float],
    *,
    mono: float = 0.1,
    dark: float = 0.03,
    white: float = 0.5,
) -> Style:
    """A random look with body text of `px`, all print within `size_px`.

    `mono`, `dark` and `white`: how often type is monospaced, print light on dark, paper white.
    """
    fixed = [typeface for typeface in typefaces if "Mono" in typeface.family or "Code" in typeface.family]
    main = dice.one(fixed) if fixed and dice.chance(mono) else dice.one(typefaces)
    other = dice.one(typefaces) if dice.chance(0.35) else main
    plain, bold, slanted = _files(main)
    contrast = 60 + 500 / px
    paper, ink, accent = _colours(dice, dark, white)
    ink = readable(ink, paper, contrast + 25)
    tint = mix(paper, accent if dice.chance(0.6) else ink, dice.uniform(0.05, 0.14))
    clean, other_clean = substitutes(main.lacks), substitutes(other.lacks)

    def pen(file: str, size: float, table: dict[int, str], colour: Colour = ink, tracking: float = 0.0) -> Pen:
        size = min(max(size, size_px[0]), size_px[1])
        return Pen(face(file, round(size * 2) / 2), colour, table, tracking)

    body_file = dice.one(plain) if dice.chance(0.9) else dice.one(slanted if dice.chance(0.4) else bold)
    strong_file = dice.one(bold)
    head_file = dice.one(_files(other)[1 if dice.chance(0.7) else 0])
    muted = readable(mix(ink, paper, dice.uniform(0.0, 0.5)), tint, contrast)
    ink = readable(ink, tint, contrast)
    accent_ink = readable(accent, paper, contrast)
    strong_ink = ink if dice.chance(0.75) else readable(accent, tint, contrast)
    tracking = px * dice.uniform(0.0, 0.1) if dice.chance(0.08) else 0.0
    on_accent = readable((255, 255, 255) if luma(accent) < 150 else (20, 20, 20), accent, contrast)
    return Style(
        paper,
        ink,
        muted,
        accent,
        on_accent,
        tint,
        body=pen(body_file, px, clean, ink, tracking),
        strong=pen(strong_file, px * dice.one((1.0, 1.0, 1.0, 1.1)), clean, strong_ink),
        head=pen(head_file, px * dice.uniform(1.1, 2.2), other_clean, accent_ink if dice.chance(0.4) else ink),
        small=pen(body_file, px * dice.uniform(0.75, 1.0), clean, muted),
        contrast=contrast,
        leading=dice.uniform(1.15, 1.6),
    )
