"""A template that makes a conversation of a row with a question and an answer, as Monkey and TinyGPT-V word theirs."""

from __future__ import annotations

import re
from typing import Any

from minimonkey.errors import DataError, UsageError, shown

ANSWER = "{answer}"
PLACE = re.compile(r"\{(\w*)\}")


def check_template(template: str, where: str) -> None:
    """Raises UsageError unless `{answer}` stands in it once, and after every other place."""
    places = PLACE.findall(template)
    if places.count("answer") != 1 or places[-1] != "answer" or "" in places:
        raise UsageError(f"{where}={template!r}: expected {ANSWER} once, after all other places such as {{question}}")


def conversation_from(template: str, row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row of the published form (`conversations`) made of a flat one.

    What stands before `{answer}` is the question, after the pictures' marks; the rest is the answer that is learnt. "{question}
    Answer: {answer}." makes "<image>", a newline and "Total? Answer:" of the question "Total?", and "18.54." of the answer "18.54".
    A row with `conversations` or `messages` keeps its own words.

    Args:
        template: words with places in braces, each the key of a row; `{answer}` comes last.
        row: keys `image` (name or list of names; none for text alone) and those of the template. Of a list of answers the first
            counts.
        where: file and line, for messages.

    Raises:
        DataError: the row lacks a key of the template, or its value is no text or number.
    """
    if "conversations" in row or "messages" in row:
        return row
    words = {name: _words(row, name, where) for name in PLACE.findall(template)}
    before, after = template.split(ANSWER)
    question = PLACE.sub(lambda place: words[place[1]], before).strip()
    images = row.get("image") or []
    if not isinstance(images, str | list):
        raise DataError(f"{where}: expected 'image' as a name or a list of names, got {shown(images)}")
    marks = "<image>\n" * (1 if isinstance(images, str) else len(images))
    turns = [{"from": "human", "value": marks + question}, {"from": "gpt", "value": words["answer"] + after}]
    return {key: value for key, value in row.items() if key not in words} | {"conversations": turns}


def _words(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if name == "answer" and isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: the template of this data set needs a text {name!r}, got {shown(value)}; keys: {', '.join(row)}")
    return str(value)
