"""What a model said: text, tokens, certainty, places.

Knows no model, and how it is run neither.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from minimonkey.pyramid import Box, Pyramid, Size

if TYPE_CHECKING:
    from minimonkey.compression.spans import Selection


@dataclass(frozen=True)
class Answer:
    """What a model said. `str(answer)` is the text."""

    text: str
    """The answer without special tokens and outer white space."""
    token_ids: list[int]
    """The new tokens, the stop token excluded."""
    mean_logprob: float
    """Mean natural logarithm of the probability of the new tokens, the stop token included; before any temperature."""
    boxes: list[Box]
    """Every `<box>[[left, top, right, bottom]]</box>` of an answer about one picture, in its pixels, as `boxes_of` reads them.

    Empty for several pictures: the text seldom tells which one a box is of. `boxes_of(vlm.processor.decode(answer.token_ids),
    answer.pyramids[0].source)` takes them for boxes of the first."""
    prompt_tokens: int
    """Tokens of the prompt, those of pictures included."""
    image_tokens: int
    """Tokens that stand for tiles."""
    timings: dict[str, float]
    """Seconds from the call until the inputs were ready ("prepare"), the first token out ("first_token") and the last ("total")."""
    pyramids: list[Pyramid]
    """How each picture was cut."""
    selections: tuple[Selection, ...] = field(default=(), compare=False)
    """What compression kept of each picture with a detail level; `picture` is its place in `pyramids`. Empty without any."""

    def __str__(self) -> str:
        return self.text


_BOX = re.compile(r"(?:<ref>((?:(?!<ref>|</ref>).)*)</ref>\s*)?<box>(.*?)</box>", re.DOTALL)
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_CORNERS = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_FULL = 1000
"""Places are written in thousandths of the picture's width and height."""


def boxes_of(text: str, source: Size) -> list[Box]:
    """The boxes that a text names, in pixels of the picture.

    A model may write anything between the marks. Whole numbers, fractions and negative numbers of any length count; what isn't four
    numbers is no box. Corners are put in order, so that left <= right and top <= bottom. A box that reaches beyond the picture
    (below 0 or above 1000) is cut off at its edge; one that lies outside altogether is left out.

    Args:
        text: an answer with its marks, `<box>[[left, top, right, bottom]]</box>`, corners in thousandths as InternVL writes them.
        source: the size of the picture in pixels.

    Returns:
        The boxes in the order of the text; each edge is within the picture.
    """
    return [_pixels(corners, source) for _, corners in _places(text)]


def labels_of(text: str) -> list[str]:
    """The labels of the boxes that a text names.

    Args:
        text: an answer with its marks, as for `boxes_of`.

    Returns:
        For each box of `boxes_of`, in the same order, the text of the `<ref>` right before it, or "".
    """
    return [label for label, _ in _places(text)]


def _places(text: str) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """The label and the corners (left, top, right, bottom) of each box, from 0 to 1000."""
    for label, box in _BOX.findall(text):
        for corners in _CORNERS.findall(box):
            x1, y1, x2, y2 = map(float, corners)  # of any number of digits: beyond a float's range is infinity
            left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
            if left <= _FULL and top <= _FULL and right >= 0 and bottom >= 0:
                yield " ".join(label.split()), (max(left, 0), max(top, 0), min(right, _FULL), min(bottom, _FULL))


def _pixels(corners: tuple[float, float, float, float], source: Size) -> Box:
    left, top, right, bottom = corners
    width, height = source.width / _FULL, source.height / _FULL
    return Box(round(left * width), round(top * height), round(right * width), round(bottom * height))


_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""Name of a token that is one byte of a character, in sentencepiece and in tokenizers made like it."""


def whole_characters(tokens: list[str]) -> int:
    """How many of these tokens surely end a character: without the single bytes at the end, to which more may come."""
    return len(tokens) - sum(1 for _ in itertools.takewhile(_BYTE.fullmatch, reversed(tokens)))
