"""From what is asked about a picture, and answered, to one row of tokens: what stands there, what is learnt, where to look.

Shape legend: L tokens of a row, C characters of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minimonkey.processing.processor import IMAGE_MARK, MiniMonkeyProcessor
from minimonkey.training.nano.labels import IGNORE

GUIDED_CHARS = 4
"""How many characters of an answer attend to the words of the question that the page has; the others to those before them."""


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str
    places: np.ndarray
    """int32 [C, 3]: the image tokens, counted from the picture's first, that hold each character of the answer; -1 for none"""
    named: np.ndarray | None = None
    """int32 [Q, 3]: the same for each of the question's Q characters, where it names something that is printed; None for nothing"""
    whole: bool = True
    """Whether the answer ends where it ends here; otherwise that isn't learnt."""


class Row(NamedTuple):
    """One picture's tokens."""

    input_ids: np.ndarray
    """int64 [L]"""
    labels: np.ndarray
    """int64 [L]: what the token before should foretell; IGNORE for what isn't learnt"""
    next_char_pos: np.ndarray
    """int64 [L, 3]: the positions of the image tokens that hold the next character, -1 for none"""
    this_char_pos: np.ndarray
    """int64 [L, 3]: the positions of those that hold this character, of the question or of the answer, -1 for none"""
    query_word_pos: np.ndarray
    """int64 [L, 3]: for the positions before the first characters of an answer, the positions of the last three tokens of the
    question that name something printed; -1 for none"""
    is_first: np.ndarray
    """bool [L]: whether this is the first token of an answer, as it should be read"""
    line_start_pos: np.ndarray
    """int64 [L, 3]: the position of the image token in which the line begins that stands in this one, -1 for none"""


def make_row(
    processor: MiniMonkeyProcessor,
    tiles: int,
    turns: Sequence[Turn],
    prefix_noise: float,
    rng: np.random.Generator,
    starts: np.ndarray | None = None,
) -> Row:
    """The turns of a conversation about one picture. The picture is paid for once, whatever is asked.

    Args:
        processor: the model's.
        tiles: of the picture.
        turns: questions and answers, in their order.
        prefix_noise: the mean rate of slips in the answers; each row has its own rate (see `add_prefix_noise`).
        rng: draws the slips.
        starts: where the printed line begins that an image token shows, int32 [image tokens], -1 for none.
    """
    rate = rng.random() * 2 * prefix_noise
    parts: list[Row] = []
    for number, turn in enumerate(turns):
        prompt = np.array(_later(processor, turn.question) if number else _first(processor, turn.question, tiles))
        if number == 0:
            image = int((prompt == processor.image_token_id).argmax())
        answer = np.array(processor.encode_answer(turn.answer))
        read = _read(processor, turn.answer, turn.places)
        characters = len(read)  # what ends an answer is never mistaken
        written, asked = add_prefix_noise(rng, characters, len(answer), rate)
        ids = answer[np.where(written < 0, rng.integers(max(1, characters), size=len(written)), written)]
        places = np.append(read, np.full((len(answer) - characters, 3), -1), axis=0)
        places = np.where(places < 0, -1, places + image)
        unlearnt = (asked < 0) | ((asked >= characters) & (not turn.whole))
        labels = np.append(np.full(len(prompt), IGNORE), np.where(unlearnt, IGNORE, answer[asked]))
        before = len(prompt) - 1  # the position whose next token is the first character
        next_char_pos = np.concatenate(
            (np.full((before, 3), -1), np.where(asked[:, None] < 0, -1, places[asked]), np.full((1, 3), -1))
        )
        named = _named(processor, turn, prompt, image)
        this_char_pos = np.concatenate((named, next_char_pos[before:-1]))
        query_word_pos = np.full_like(this_char_pos, -1)
        if naming := np.flatnonzero((named >= 0).any(-1))[-3:].tolist():
            query_word_pos[before : before + min(GUIDED_CHARS, characters), : len(naming)] = naming
            query_word_pos = np.where(query_word_pos < 0, -1, query_word_pos + sum(len(part.input_ids) for part in parts))
        is_first = np.arange(len(labels)) == len(prompt)
        line_start_pos = np.full_like(this_char_pos, -1)
        if number == 0 and starts is not None:
            line_start_pos[image : image + len(starts), 0] = np.where(starts < 0, -1, starts + image)
        parts.append(Row(np.append(prompt, ids), labels, next_char_pos, this_char_pos, query_word_pos, is_first, line_start_pos))
    return Row(*(np.concatenate(pieces) for pieces in zip(*parts, strict=True)))


def _read(processor: MiniMonkeyProcessor, text: str, places: np.ndarray) -> np.ndarray:
    """Where each token of a text is read: where its first character is. Markup such as `<ref>` is one token."""
    tokens = processor.tokenizer(processor.plain_text(text), return_offsets_mapping=True, add_special_tokens=False)
    return places[[min(start, len(places) - 1) for start, _ in tokens["offset_mapping"]]]


def _named(processor: MiniMonkeyProcessor, turn: Turn, prompt: np.ndarray, image: int) -> np.ndarray:
    """For each token of a prompt, whose picture begins at `image`: the image tokens that hold what it names."""
    this_char_pos = np.full((len(prompt), 3), -1)
    if turn.named is not None and len(turn.named):
        asked = np.array(processor.tokenizer(processor.plain_text(turn.question), add_special_tokens=False)["input_ids"])
        windows = np.lib.stride_tricks.sliding_window_view(prompt, len(asked))
        start = int((windows == asked).all(axis=1).nonzero()[0][-1])
        named = _read(processor, turn.question, turn.named)
        this_char_pos[start : start + len(asked)] = np.where(named < 0, -1, named + image)
    return this_char_pos


def _first(processor: MiniMonkeyProcessor, question: str, tiles: int) -> list[int]:
    return processor.encode_chat(f"{IMAGE_MARK}\n{question}", pictures=[tiles])


def _later(processor: MiniMonkeyProcessor, question: str) -> list[int]:
    """What a prompt has behind the answers before."""
    before = len(processor.encode_chat("?")) + len(processor.encode_answer("!"))
    return processor.encode_chat(question, history=[("?", "!")])[before:]


def add_prefix_noise(rng: np.random.Generator, characters: int, length: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Slips in the prefix that a model continues, as it makes them when it writes by itself.

    A slip is a wrong character, one left out, or up to six read again. Behind it the target is always how the true text goes on.

    Args:
        rng: draws the slips.
        characters: so many first tokens of the answer can have slips.
        length: tokens of the answer.
        rate: share of the characters that get a slip.

    Returns:
        (written, asked), int64 [L] each: which token of the answer stands there, -1 for a wrong one; and which is right there, -1
        where there is no target.
    """
    written: list[int] = []
    asked: list[int] = []
    index = 0
    while index < length:
        chance = rng.random() / rate if rate and index < characters else 1.0
        if chance < 0.6:
            written.append(-1)
        elif chance < 0.8 and index + 1 < characters:
            written.append(index + 1)
        elif chance < 1 and index:
            again = range(first := int(rng.integers(max(0, index - 12), index)), min(index, first + int(rng.integers(1, 7))))
            written += [*again, index]
            asked += [index, *[-1] * (len(again) - 1)]
        else:
            written.append(index)
        asked.append(index)
        index = max(index, written[-1]) + 1
    return np.array(written), np.array(asked)
