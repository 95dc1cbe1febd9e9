"""How a family writes places of a picture into text: where a box begins, which four numbers it has, of how many they are parts.

Knows regular expressions, no picture and no model.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"


class BoxNotation(NamedTuple):
    """How boxes are written. Corners are left, top, right, bottom."""

    box: re.Pattern[str]
    """One place or several: the first group is its label, if it has one, the second has the numbers."""
    corners: re.Pattern[str]
    """One box within the second group: four groups, a number each."""
    full: int
    """The number that stands for the picture's whole width or height."""


_BOX = re.compile(r"(?:<ref>((?:(?!<ref>|</ref>).)*)</ref>\s*)?<box>(.*?)</box>", re.DOTALL)
INTERNVL = BoxNotation(_BOX, re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]"), 1000)
"""`<ref>total</ref><box>[[10, 20, 300, 400]]</box>`, several boxes in one pair of marks."""
QWEN_VL = BoxNotation(_BOX, re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)"), 1000)
"""`<ref>total</ref><box>(10,20),(300,400)</box>`, as Qwen-VL and Monkey write them."""
_PHRASE = re.compile(r"(?:<p>((?:(?!<p>|</p>).)*)</p>\s*)?((?:\{(?:<-?\d+>){4}\}(?:<delim>)?)+)", re.DOTALL)
BRACES = BoxNotation(_PHRASE, re.compile(r"\{<(-?\d+)><(-?\d+)><(-?\d+)><(-?\d+)>\}"), 100)
"""`<p>the red house</p>{<10><20><30><40>}<delim>{<50><20><70><40>}`, as MiniGPT-v2 and TinyGPT-V write them."""
