"""One schema for training data: who said what, with which pictures. docs/data-format.md shows it for people.

Two written forms are read, that of the published code (`conversations`, human and gpt) and that of chat templates (`messages`, user
and assistant); whatever is wrong with a row is a DataError with file and line. Knows no tokenizer, opens no picture.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from minimonkey.documents.pictures import source_name
from minimonkey.errors import DataError, shown

MARKS: dict[str, Literal["image", "video"]] = {"<image>": "image", "<video>": "video"}
"""What stands in a user's text where a medium belongs."""
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
"""The roles of the published form; those of `messages` are the values."""
KEYS = ("conversations", "messages", "image", "images", "video", "videos")
"""What is read of a row, beside `id`, `width` and `height`; other keys are left alone."""

BOX = re.compile(r"<(?:box|quad)>(.*?)</(?:box|quad)>", re.DOTALL)
NUMBER = re.compile(r"(?:(?<![0-9])-)?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
Source = str | bytes
"""A file's path, or its bytes (Parquet)."""


class Medium(NamedTuple):
    """A picture, or a video of which frames are shown."""

    kind: Literal["image", "video"]
    source: Source
    """A file; of a video also a folder of frames."""


@dataclass(frozen=True)
class Message:
    """What one side says. Between two `texts` stands a medium: a message with n media has n + 1 texts."""

    role: Literal["system", "user", "assistant"]
    texts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The texts as one, without the media."""
        return "".join(self.texts)


@dataclass(frozen=True)
class Conversation:
    """A row of training data."""

    messages: tuple[Message, ...]
    media: tuple[Medium, ...] = ()
    """In the order in which they stand in the messages."""
    id: str | None = None
    where: str = "the row"
    """File and line, for messages."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The row as it was written."""
    folder: Path = field(default=Path("."), repr=False, compare=False)
    """What its paths are relative to."""

    @property
    def answers(self) -> list[str]:
        """What the model is to learn."""
        return [message.text for message in self.messages if message.role == "assistant"]

    @classmethod
    def of(cls, raw: Any, *, images: str | os.PathLike[str] | None = None, where: str = "the row") -> Conversation:
        """The conversation of a row.

        Args:
            raw: the row, as JSON or Parquet has it. Either form of `docs/data-format.md`.
            images: the folder that paths of pictures and videos are relative to; None: the current one.
            where: file and line, for messages.

        Returns:
            The conversation. Pictures without a mark stand before the first question, each followed by a newline, as `vlm.ask` puts
            them. Marks in answers and system messages are plain text.

        Raises:
            DataError: the row has another form, a file is missing, marks don't match media, or nothing is answered.
        """
        return _Row(raw, Path(images or "."), where).conversation()


@dataclass
class _Row:
    """One row on its way to a conversation."""

    raw: Any
    folder: Path
    where: str
    named: list[Medium] = field(default_factory=list)
    """Media beside the messages that no block of content has taken."""
    inline: list[Medium] = field(default_factory=list)
    """Media of blocks of content, in their order."""

    def wrong(self, what: str, kind: str = "another form") -> DataError:
        return DataError(f"{self.where}: {what}", kind)

    def conversation(self) -> Conversation:
        if not isinstance(self.raw, Mapping):
            raise self.wrong(f"{shown(self.raw)} is no row: expected an object with conversations or messages")
        self._misspelt()
        self.named = self._named("image") + self._named("video")
        messages = self._messages()
        if not any(message.role == "assistant" for message in messages):
            raise self.wrong("nothing is answered: expected a message of gpt (or assistant) to learn from", "no answer")
        if self.named and self.inline:
            raise self.wrong("media stand both in content blocks and beside the messages: name each once, and give each a block")
        messages, media = (messages, self.inline) if self.inline else self._placed(messages, self.named)
        self._check_texts(messages)
        name = self.raw.get("id")
        return Conversation(tuple(messages), tuple(media), None if name is None else str(name), self.where, self.raw, self.folder)

    def _misspelt(self) -> None:
        for key in self.raw:
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.75)
            if key not in KEYS and near and near[0] not in self.raw and len(str(key)) - len(near[0]) in (-1, 0, 1):
                raise self.wrong(f"unknown key {key!r}: expected {near[0]!r}", "unknown key")
        if "conversations" in self.raw and "messages" in self.raw:
            raise self.wrong("has conversations and messages: expected one of them")

    def _messages(self) -> list[Message]:
        published = "conversations" in self.raw
        turns = self.raw.get("conversations", self.raw.get("messages"))
        if not isinstance(turns, Sequence) or isinstance(turns, str | bytes) or not turns:
            raise self.wrong(f"its {'conversations' if published else 'messages'} are {shown(turns)}: expected a list of messages")
        return [self._message(turn, number, published) for number, turn in enumerate(turns, 1)]

    def _message(self, turn: Any, number: int, published: bool) -> Message:
        role_key, text_key = ("from", "value") if published else ("role", "content")
        if not isinstance(turn, Mapping) or role_key not in turn or text_key not in turn:
            raise self.wrong(f'message {number} is {shown(turn)}: expected {{"{role_key}": ..., "{text_key}": ...}}')
        roles = ROLES if published else dict.fromkeys(ROLES.values())
        said, content = turn[role_key], turn[text_key]
        if not isinstance(said, str) or said not in roles:
            raise self.wrong(f"message {number} is from {shown(said)}: expected {', '.join(roles)}", "unknown role")
        role: Any = ROLES.get(said, said)
        if role == "system" and number > 1:
            raise self.wrong(f"message {number} is from system: a system message can only be the first")
        if isinstance(content, str):
            return Message(role, (content,))
        if published or not isinstance(content, Sequence) or isinstance(content, bytes):
            raise self.wrong(f"message {number} says {shown(content)}: expected text" + ("" if published else " or content blocks"))
        return Message(role, self._texts(content, number, role))

    def _texts(self, blocks: Sequence[Any], number: int, role: str) -> tuple[str, ...]:
        """The texts of content blocks; a newline follows a medium that isn't the last block, as in the chat templates."""
        texts = [""]
        for place, block in enumerate(blocks, 1):
            kind = block.get("type") if isinstance(block, Mapping) else None
            if kind == "text" and isinstance(block.get("text"), str):
                texts[-1] += block["text"]
            elif kind in ("image", "video") and role == "user":
                source = next((block[key] for key in (kind, "path", "url") if block.get(key)), None)
                self.inline.append(self._next_named(kind, number) if source is None else Medium(kind, self._source(source, kind)))
                texts.append("\n" if place < len(blocks) else "")
            else:
                raise self.wrong(f"message {number} has the block {shown(block)}: expected text, image or video (media by user)")
        return tuple(texts)

    def _next_named(self, kind: str, number: int) -> Medium:
        """The medium of a block that only says that there is one: the next that stands beside the messages."""
        medium = next((one for one in self.named if one.kind == kind), None)
        if medium is None:
            raise self.wrong(
                f'message {number} has a block without its {kind}: expected {{"type": "{kind}", "{kind}": PATH}}, or {kind}s beside'
                " the messages"
            )
        self.named.remove(medium)
        return medium

    def _check_texts(self, messages: list[Message]) -> None:
        """Texts are Unicode. Coordinates are in thousandths of the picture's sides; pixels are the usual mistake."""
        for number, message in enumerate(messages, 1):
            if halves := re.findall("[\ud800-\udfff]", message.text):
                raise self.wrong(f"message {number} has {halves[0]!r}, half a character: expected Unicode text", "no Unicode")
            for box in BOX.findall(message.text):
                if not all(0 <= float(each) <= 1000 for each in NUMBER.findall(box)):
                    raise self.wrong(
                        f"the box {shown(box)} is off the scale: expected 0 to 1000, thousandths of the sides", "boxes"
                    )

    # -- media beside the messages -------------------------------------------------------------------------------------------------

    def _named(self, kind: Literal["image", "video"]) -> list[Medium]:
        """The media that the row names, in their order."""
        given = [value for key in (kind, f"{kind}s") if (value := self.raw.get(key)) not in (None, "", [], ())]
        if len(given) > 1:
            raise self.wrong(f"has {kind} and {kind}s: expected one of them")
        value = given[0] if given else []
        if not isinstance(value, list | tuple):
            value = [value]
        return [Medium(kind, self._source(one, kind)) for one in value]

    def _source(self, value: Any, kind: str) -> Source:
        """A path that exists, or bytes."""
        if isinstance(value, Mapping):  # what `datasets` makes of a picture
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value and kind == "image":
            return value
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.wrong(f"its {kind} is {shown(value)}: expected a path")
        if "://" in value:
            raise self.wrong(f"its {kind} is the address {shown(value)}: save it to a file, addresses aren't fetched", "an address")
        path = self.folder / value
        if not (os.path.isfile(path) or (kind == "video" and os.path.isdir(path))):
            what = "a folder" if os.path.isdir(path) else "missing"
            place = f"expected {source_name(path)} (images says in which folder)"
            raise self.wrong(f"the {kind} {shown(value)} is {what}: {place}", "missing file")
        return str(path)

    def _placed(self, messages: list[Message], media: list[Medium]) -> tuple[list[Message], list[Medium]]:
        """The messages cut at the marks of users, and the media in the order of these."""
        waiting = {kind: [one for one in media if one.kind == kind] for kind in MARKS.values()}
        users = [place for place, message in enumerate(messages) if message.role == "user"]
        for mark, kind in MARKS.items():
            count, found = sum(messages[place].text.count(mark) for place in users), len(waiting[kind])
            if found and not count and users:
                first = messages[users[0]]
                messages[users[0]] = Message("user", (f"{mark}\n" * found + first.text,))
            elif count != found and (found or kind == "image"):  # <video> in a row without one is text
                raise self.wrong(f"{count} {mark} marks for {found} {kind}s: give each a mark, or write none", "marks")
        order: list[Medium] = []
        for place in users:
            texts, rest = [""], messages[place].text
            while rest:
                marks = [(at, mark) for mark in MARKS if waiting[MARKS[mark]] and (at := rest.find(mark)) >= 0]
                at, mark = min(marks, default=(len(rest), ""))
                texts[-1] += rest[:at]
                rest = rest[at + len(mark) :]
                if mark:
                    order.append(waiting[MARKS[mark]].pop(0))
                    texts.append("")
            messages[place] = Message("user", tuple(texts))
        return messages, order
