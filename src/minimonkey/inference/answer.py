"""What a model said: text, tokens, certainty, places.

Knows no model, and how it is run neither.
"""

from __future__ import annotations

import itertools
import re
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
    """Every `<box>[[left, top, right, bottom]]</box>` of the answer, thousandths turned into pixels of the first picture."""
    prompt_tokens: int
    """Tokens of the prompt, those of pictures included."""
    image_tokens: int
    """Tokens that stand for tiles."""
    timings: dict[str, float]
    """Seconds from the call until the inputs were ready ("prepare"), the first token out ("first_token") and the last ("total")."""
    pyramids: list[Pyramid]
    """How each picture was cut."""
    kept: tuple[Selection, ...] = field(default=(), compare=False)
    """What compression kept of each picture that has a detail level; `picture` is its place in `pyramids`. Empty without any."""

    def __str__(self) -> str:
        return self.text


_BOX = re.compile(r"(?:<ref>((?:(?!<ref>|</ref>).)*)</ref>\s*)?<box>(.*?)</box>", re.DOTALL)
_CORNERS = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")


def boxes_of(text: str, source: Size) -> list[Box]:
    """The boxes of a text, thousandths (InternVL's way of writing places) as pixels of the picture."""
    found = [corners for _, box in _BOX.findall(text) for corners in _CORNERS.findall(box)]
    width, height = source.width / 1000, source.height / 1000
    return [
        Box(round(int(x1) * width), round(int(y1) * height), round(int(x2) * width), round(int(y2) * height))
        for x1, y1, x2, y2 in found
    ]


def labels_of(text: str) -> list[str]:
    """For each box of `boxes_of`, in the same order, the `<ref>` right before it, or ""."""
    return [" ".join(label.split()) for label, box in _BOX.findall(text) for _ in _CORNERS.findall(box)]


_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""Name of a token that is one byte of a character, in sentencepiece and in tokenizers made like it."""


def whole_characters(tokens: list[str]) -> int:
    """How many of these tokens surely end a character: without the single bytes at the end, to which more may come."""
    return len(tokens) - sum(1 for _ in itertools.takewhile(_BYTE.fullmatch, reversed(tokens)))
