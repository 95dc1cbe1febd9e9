"""A conversation to what a model learns from: ids, labels, tiles.

The chat template is rendered with a slot in place of each text, so that nothing anybody said can be mistaken for a part of it and
every answer's place is known. What is learnt: each answer and the separator that ends it, nothing else (`Args` of the published
`internvl/train/dataset.py`, `preprocess_*`).

    messages -> slots -> template -> texts put in -> processor: ids, character offsets, tiles -> labels where an answer stands
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from PIL.Image import Image

from minimonkey.data.conversation import Conversation, Medium, Message
from minimonkey.documents import frames_prompt, load_frames, load_picture
from minimonkey.errors import DataError, MiniMonkeyError, PictureError
from minimonkey.pyramid import PyramidSpec

NOT_LEARNT = -100
"""The label of a token that isn't learnt, as everywhere in transformers."""
FRAMES = 32
"""The most frames that are shown of a video."""
SLOT = "\ufdd1"
"""Stands for each text in the template: a noncharacter. No text passes through the template, so that it can't be mistaken."""
_SOURCES = Path(__file__).parents[1] / "processing" / "templates"


class TextSpan(NamedTuple):
    """Characters start, ..., stop - 1 of a text."""

    start: int
    stop: int


@dataclass(frozen=True)
class TrainingRules:
    """What the published training code does to messages before they meet a chat template."""

    strip: bool = False
    """Takes white space off both ends of each message (`preprocess_internlm`)."""
    drops_first_answer: bool = False
    """Leaves out an answer that nobody asked for: the first message, if it is the model's (all `preprocess_*` of InternVL 2.0)."""


RULES = {
    "internlm2-chat": TrainingRules(strip=True, drops_first_answer=True),
    "Hermes-2": TrainingRules(drops_first_answer=True),
    "phi3-chat": TrainingRules(drops_first_answer=True),
}
"""By the published name of the template; others take messages as they are."""


def encode(
    row: Conversation,
    processor: Any,
    *,
    max_tokens: int | None = None,
    pyramid: PyramidSpec | Mapping[str, Any] | None = None,
    as_published: bool = False,
) -> dict[str, Any]:
    """What a model learns from a conversation.

    Equal to the published training code (`internvl_chat_finetune.py`, `minimonkey_chat_finetune.py`) wherever what that does is
    well defined. On purpose otherwise:

    * labels that it loses (an empty answer, a last question without an answer, a separator inside a message) are what the template
      means: an empty answer's separator is learnt, an open question isn't;
    * special strings that people wrote are plain text, `<ref>`, `<box>` and their like excepted;
    * pictures without marks stand before the first question, whoever speaks first; each of several is cut as a single one would be;
    * a conversation without pictures has no tiles (there: a white one that doesn't count);
    * a system message is used with every template; pictures are loaded as `vlm.ask` loads them (`documents.load_picture`);
    * nothing is cut off: a conversation that is too long is an error.

    Args:
        row: the conversation.
        processor: the model's (`vlm.processor`): chat template, tokenizer, image processor.
        max_tokens: the most ids that a conversation may have; None: no limit. With `as_published` more are cut off.
        pyramid: how pictures are cut; None: as the processor does. Frames of a video are one tile each.
        as_published: lose what the published code loses, for comparisons with it (`minimonkey.data.published`).

    Returns:
        `input_ids` int64 [L] and `labels` int64 [L], the same ids where they are learnt, else -100; with pictures also
        `pixel_values` float32 [T, 3, S, S] and `level_tiles` int64 [P, 3].

    Raises:
        DataError: one line with file and line of the row: a picture that can't be read, or too many tokens.
    """
    try:
        if as_published:
            from minimonkey.data.published import published_example

            return published_example(row.raw, processor, images=row.folder, where=row.where, max_tokens=max_tokens, pyramid=pyramid)
        example = _example(row, processor, pyramid)
    except DataError:
        raise
    except PictureError as error:
        raise DataError(f"{row.where}: {error}", "unreadable picture") from error
    except (MiniMonkeyError, TemplateError) as error:
        raise DataError(f"{row.where}: {error}") from error
    if max_tokens is not None and len(example["input_ids"]) > max_tokens:
        raise too_long(row, len(example["input_ids"]), len(example.get("pixel_values", ())), max_tokens)
    return example


def too_long(row: Conversation, tokens: int, tiles: int, max_tokens: int) -> DataError:
    """The error of a conversation with more tokens than allowed."""
    remedy = "lower the pyramid's budgets" if tiles else "shorten it"
    return DataError(
        f"{row.where}: {tokens} tokens with {tiles} tiles are more than max_tokens={max_tokens}: {remedy}, or raise max_tokens",
        "too long",
    )


def _example(row: Conversation, processor: Any, pyramid: Any) -> dict[str, Any]:
    messages, pictures = loaded(row)
    if any(medium.kind == "video" for medium in row.media):
        pyramid = ONE_TILE
    text, answers = trained_text(messages, processor)
    settings = {} if pyramid is None else {"pyramid": pyramid}
    inputs = processor(
        images=pictures or None,
        text=[text],
        return_offsets_mapping=True,
        return_text_replacement_offsets=True,
        **settings,
    )
    ids = torch.tensor(inputs["input_ids"][0])
    learnt = [moved(answer, inputs["text_replacement_offsets"][0]) for answer in answers]
    example = {"input_ids": ids, "labels": torch.where(inside(inputs["offset_mapping"][0], learnt), ids, NOT_LEARNT)}
    return example | {name: torch.as_tensor(inputs[name]) for name in ("pixel_values", "level_tiles") if name in inputs}


# -- text --------------------------------------------------------------------------------------------------------------------------


def trained_text(messages: list[Message], processor: Any) -> tuple[str, list[TextSpan]]:
    """The text of a conversation, one image token a picture, and where its answers stand with the separators that end them."""
    rules = RULES.get(template_name(processor) or "", TrainingRules())
    first = next((place for place, message in enumerate(messages) if message.role != "system"), 0)
    if rules.drops_first_answer and messages[first].role == "assistant":
        messages = messages[:first] + messages[first + 1 :]
    pieces = template_pieces(processor, tuple(message.role for message in messages))
    end = answer_end(processor)
    text, answers = pieces[0], []
    for message, piece in zip(messages, pieces[1:], strict=True):
        start = len(text)
        text += _said(message, processor, rules)
        if message.role == "assistant":
            answers.append(TextSpan(start, len(text) + len(end)))
        text += piece
    return text, answers


def _said(message: Message, processor: Any, rules: TrainingRules) -> str:
    texts = list(message.texts)
    if rules.strip:
        texts[0] = texts[0].lstrip()
        texts[-1] = texts[-1].rstrip()
    return processor.image_token.join(map(processor.plain_text, texts))


def template_pieces(processor: Any, roles: tuple[str, ...]) -> list[str]:
    """What a processor's template writes before, between and after messages of these roles: one piece more than messages.

    Raises DataError if the template leaves a message out.
    """
    pieces = processor.apply_chat_template([{"role": role, "content": SLOT} for role in roles]).split(SLOT)
    if len(pieces) != len(roles) + 1:
        raise DataError(
            f"the chat template shows {len(pieces) - 1} of {len(roles)} messages ({', '.join(roles)}): change the template"
        )
    return pieces


def answer_end(processor: Any) -> str:
    """The separator that ends an answer in the template, without the white space that may follow it."""
    return template_pieces(processor, ("user", "assistant"))[-1].rstrip()


@lru_cache(maxsize=1)
def _published_templates() -> dict[str, str]:
    return {file.read_text(encoding="utf-8"): file.stem for file in sorted(_SOURCES.glob("*.jinja"))}


def template_name(processor: Any) -> str | None:
    """The published name of a processor's chat template, or None."""
    return _published_templates().get(processor.chat_template)


# -- places ------------------------------------------------------------------------------------------------------------------------


def moved(span: TextSpan, replacements: list[dict[str, Any]]) -> TextSpan:
    """Where a span is once image tokens before it have grown (`text_replacement_offsets` of a transformers processor)."""
    shift = 0
    for replaced in replacements:
        if replaced["span"][1] > span.start:
            break
        shift = replaced["new_span"][1] - replaced["span"][1]
    return TextSpan(span.start + shift, span.stop + shift)


def inside(offsets: list[tuple[int, int]], spans: list[TextSpan]) -> torch.Tensor:
    """Which tokens belong to a span: bool [L]. A token that begins before a span isn't part of it."""
    starts, stops = torch.tensor(offsets).T
    found = torch.zeros(len(offsets), dtype=torch.bool)
    for span in spans:
        found |= (starts >= span.start) & (starts < span.stop) & (stops > starts)
    return found


# -- pictures ----------------------------------------------------------------------------------------------------------------------

ONE_TILE = {"detail": (1, 1), "adaptive": None}
"""How a frame is shown."""


def loaded(row: Conversation, most_frames: int = FRAMES) -> tuple[list[Message], list[Image]]:
    """A conversation's messages and its pictures; the frames of a video are numbered in the text as `ask --frames` numbers them."""
    kinds = {medium.kind for medium in row.media}
    if kinds <= {"image"}:
        return list(row.messages), [load_picture(medium.source) for medium in row.media]
    if kinds != {"video"}:
        raise DataError(f"{row.where}: pictures and videos in one row: expected one or the other; name the frames as pictures")
    videos = [load_frames(_path(medium, row), most=most_frames) for medium in row.media]
    counts = iter([len(frames) for frames in videos])
    return [_numbered(message, counts) for message in row.messages], [frame for frames in videos for frame in frames]


def _numbered(message: Message, counts: Iterator[int]) -> Message:
    """The message with one place for a picture for each frame of its videos."""
    texts = [message.texts[0]]
    for text in message.texts[1:]:
        count = next(counts)
        opening, *further = frames_prompt(count, text.removeprefix("\n")).split("<image>", count)
        texts = [*texts[:-1], texts[-1] + opening, *further]
    return Message(message.role, tuple(texts))


def _path(medium: Medium, row: Conversation) -> str:
    if isinstance(medium.source, bytes):
        raise DataError(f"{row.where}: a video as bytes: expected the path of a file or of a folder of frames")
    return medium.source
