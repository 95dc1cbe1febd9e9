"""What a model said: text, tokens, certainty, places.

Knows no model, and how it is run neither.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from minimonkey.processing.box_notation import INTERNVL, BoxNotation
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
    """Every box of an answer about one picture, in its pixels, as `boxes_of` reads them in the model's notation.

    Empty for several pictures: the text seldom tells which one a box is of. `boxes_of(vlm.processor.decode(answer.token_ids),
    answer.pyramids[0].source, vlm.processor.box_notation)` takes them for boxes of the first."""
    prompt_tokens: int
    """Tokens of the prompt, those of pictures included."""
    image_tokens: int
    """Tokens that stand for tiles."""
    timings: dict[str, float]
    """Seconds from the call until the inputs were ready ("prepare"), the first token out ("first_token") and the last ("total")."""
    pyramids: list[Pyramid]
    """How each picture was cut."""
    token_logprobs: list[float] = field(default_factory=list, repr=False, compare=False)
    """Of each of `token_ids`, the natural logarithm of its probability, as in `mean_logprob`."""
    selections: tuple[Selection, ...] = field(default=(), compare=False)
    """What compression kept of each picture with a detail level; `picture` is its place in `pyramids`. Empty without any."""

    def __str__(self) -> str:
        return self.text


def boxes_of(text: str, source: Size, notation: BoxNotation = INTERNVL) -> list[Box]:
    """The boxes that a text names, in pixels of the picture.

    A model may write anything between the marks. Whole numbers, fractions and negative numbers of any length count; what isn't four
    numbers is no box. Corners are put in order, so that left <= right and top <= bottom. A box that reaches beyond the picture
    (below 0 or above `notation.full`) is cut off at its edge; one that lies outside altogether is left out.

    Args:
        text: an answer with its marks.
        source: the size of the picture in pixels.
        notation: how the model writes boxes; `processor.box_notation`.

    Returns:
        The boxes in the order of the text; each edge is within the picture.
    """
    return [_pixels(corners, source) for _, corners in _places(text, notation)]


def labels_of(text: str, notation: BoxNotation = INTERNVL) -> list[str]:
    """The labels of the boxes that a text names.

    Args:
        text: an answer with its marks, as for `boxes_of`.
        notation: how the model writes boxes; `processor.box_notation`.

    Returns:
        For each box of `boxes_of`, in the same order, the label right before it, such as the text of a `<ref>`, or "".
    """
    return [label for label, _ in _places(text, notation)]


def _places(text: str, notation: BoxNotation) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """The label and the corners (left, top, right, bottom) of each box, from 0 to 1."""
    full = notation.full
    for label, box in notation.box.findall(text):
        for corners in notation.corners.findall(box):
            x1, y1, x2, y2 = map(float, corners)  # of any number of digits: beyond a float's range is infinity
            left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
            if left <= full and top <= full and right >= 0 and bottom >= 0:
                inside = (max(left, 0.0), max(top, 0.0), min(right, full), min(bottom, full))
                yield " ".join(label.split()), tuple(edge / full for edge in inside)  # type: ignore[misc]


def _pixels(corners: tuple[float, float, float, float], source: Size) -> Box:
    left, top, right, bottom = corners
    width, height = source.width, source.height
    return Box(round(left * width), round(top * height), round(right * width), round(bottom * height))


_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""Name of a token that is one byte of a character, in sentencepiece and in tokenizers made like it."""


def whole_characters(tokens: list[str]) -> int:
    """How many of these tokens surely end a character: without the single bytes at the end, to which more may come."""
    return len(tokens) - sum(1 for _ in itertools.takewhile(_BYTE.fullmatch, reversed(tokens)))
