"""Fields out of pictures: an answer that is JSON of a given schema, token by token, and how certain each field is.

Knows tokens and schemas (`json_schema.py`); which model writes and what it sees is the caller's business. Extra `extract`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import LogitsProcessor

from minimonkey.errors import ExtractionError, MissingExtraError, UsageError, shown
from minimonkey.inference.answer import Answer, boxes_of
from minimonkey.inference.json_schema import BOX_FULL, Schema, bounded, in_words
from minimonkey.inference.short_form import schema_of
from minimonkey.pyramid import Box, Size

CLOSING = (b'"', b"}", b"]", b",")
"""What ends a value, the one to be taken first if several could stand there."""
_tables: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
"""Of each tokenizer what llguidance makes of it, by the number of logits and the stop tokens."""


@dataclass(frozen=True)
class Fields:
    """What shall be read."""

    schema: Schema
    """References resolved, everything bounded."""
    given: Any = field(repr=False)
    """As the user wrote it."""

    @classmethod
    def of(cls, given: Any) -> Fields:
        """Raises UsageError for what is no schema, or one that can't be kept to; MissingExtraError without llguidance."""
        if isinstance(given, Fields):
            return given
        fields = cls(bounded(schema_of(given)), given)
        llguidance = _llguidance()
        if problem := llguidance.LLMatcher.validate_grammar(fields.grammar):
            raise UsageError(f"schema: no answer can meet it ({' '.join(problem.split())[:200]})")
        return fields

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns in a table."""
        return tuple(self.schema["properties"]) if self.schema.get("type") == "object" else ("value",)

    @property
    def question(self) -> str:
        """What a model is asked unless the user says something else."""
        return f"Read these fields and answer in JSON, with null for what isn't there: {in_words(self.schema)}"

    def requests(self, pictures: Sequence[Any], questions: Sequence[str | None] | None) -> list[tuple[Any, str]]:
        """Pairs of pictures and what is asked about them. Raises UsageError for anything but a list of each."""
        if not isinstance(pictures, list | tuple):
            raise UsageError(f"pictures={shown(pictures)}: expected a list, of what extract() takes")
        given = [None] * len(pictures) if questions is None else questions
        if not isinstance(given, list | tuple) or len(given) != len(pictures):
            raise UsageError(f"questions={shown(given)}: expected a list of as many as there are pictures, {len(pictures)}")
        return [(each, self.question if question is None else question) for each, question in zip(pictures, given, strict=True)]

    @property
    def grammar(self) -> str:
        """White space is forbidden between values: a model may write it for ever."""
        return _llguidance().LLMatcher.grammar_from_json_schema(json.dumps(self.schema), overrides={"whitespace_flexible": False})

    def read(self, answer: Answer, tokens: list[bytes]) -> Extraction:
        """What an answer holds; `tokens` are its bytes, one entry for each of `answer.token_ids`."""
        raw = b"".join(tokens)
        text = raw.decode(errors="replace")
        try:
            data = json.loads(text)
            value = getattr(self.given, "model_validate_json")(text) if isinstance(self.given, type) else data  # noqa: B009
        except (ValueError, RecursionError) as error:
            whole = text.endswith(("}", "]", '"')) and not isinstance(error, json.JSONDecodeError)
            reason = " ".join(str(error).split())[:200] if whole else f"it stops after {len(tokens)} tokens; raise max_new_tokens"
            return Extraction(None, None, text, f"the answer doesn't fit its schema: {reason}", answer, {}, {})
        confidence = {path: _probability(tokens, answer.token_logprobs, span) for path, span in _spans(raw, "", 0)[1]}
        source = answer.pyramids[0].source if len(answer.pyramids) == 1 else None
        boxes = {} if source is None else dict(_boxes(self.schema, data, "", source))
        return Extraction(value, data, text, None, answer, confidence, boxes)


@dataclass(frozen=True)
class Extraction:
    """Fields that were read."""

    value: Any
    """A dict, or an object of the pydantic class that was given; None on failure."""
    data: Any
    """The same as JSON has it."""
    text: str
    """What the model wrote."""
    error: str | None
    """Why it doesn't fit the schema, in one line; None where it does."""
    answer: Answer = field(repr=False)
    confidence: dict[str, float]
    """For each value, by its path such as `items[0].price`: the geometric mean of the probabilities of its tokens, each among
    those that the schema allowed. 1.0 where there was no choice."""
    boxes: dict[str, Box]
    """Where the model says that a value stands, in pixels of the one picture: values of type box, and `<box>` within texts."""

    @property
    def lowest_confidence(self) -> float | None:
        """That of the least certain value."""
        return round(min(self.confidence.values()), 4) if self.confidence else None

    @property
    def columns(self) -> dict[str, Any]:
        """Its fields as columns of a table."""
        return self.data if isinstance(self.data, dict) else {} if self.error else {"value": self.data}

    def result(self) -> Any:
        """The value. Raises ExtractionError, which has the model's text, where there is none."""
        if self.error is not None:
            raise ExtractionError(self.error, self.text)
        return self.value


class JsonConstraint(LogitsProcessor):
    """Leaves each row only those tokens after which its text can still become JSON of the schema.

    Where a model would rather end its answer, as many do behind a value, it ends the value: its wish to stop counts for the sign
    that does so.
    """

    def __init__(self, fields: Fields, tokenizer: Any, vocabulary: int, stops: Sequence[int | None], rows: int) -> None:
        """`vocabulary` is the number of logits, `stops` are the tokens that end an answer."""
        llguidance = _llguidance()
        self._stops = [stop for stop in stops if stop is not None and stop < vocabulary]
        if not self._stops:
            raise UsageError("eos_token_id: the model has no token that ends an answer, which JSON needs behind its last brace")
        self._table = token_table(tokenizer, vocabulary, self._stops)
        self._matchers = [llguidance.LLMatcher(self._table, fields.grammar, log_level=0) for _ in range(rows)]
        for matcher in self._matchers:
            if problem := matcher.get_error():
                raise UsageError(f"schema: this model's tokens can't meet it ({' '.join(problem.split())[:200]})")
        closing = ((sign, self._table.tokenize_bytes(sign)) for sign in CLOSING)
        self._closing = [tokens[0] for sign, tokens in closing if len(tokens) == 1 and self._table.decode_bytes(tokens) == sign]
        self._masks = np.zeros((rows, (vocabulary + 31) // 32), np.int32)
        self._vocabulary, self._begun = vocabulary, False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for row, matcher in enumerate(self._matchers):
            if self._begun and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            if matcher.is_stopped():
                allowed[row, self._stops] = True
            else:
                matcher.unsafe_compute_mask_ptr(self._masks[row].ctypes.data, self._masks[row].nbytes)
                bits = np.unpackbits(self._masks[row].view(np.uint8), bitorder="little")[: self._vocabulary]
                allowed[row, : self._vocabulary] = torch.from_numpy(bits.astype(bool))
            if self._begun and not allowed[row, self._stops].any() and not self._is_due(int(input_ids[row, -1])):
                sign = next((token for token in self._closing if allowed[row, token]), None)
                if sign is not None:
                    scores[row, sign] = torch.logaddexp(scores[row, sign], scores[row, self._stops].logsumexp(-1))
        self._begun = True
        allowed = allowed.to(scores.device)
        scores = scores.masked_fill(~allowed, -math.inf)
        none_left = scores.isneginf().all(-1, keepdim=True)  # other settings forbade what is left
        return torch.where(none_left & allowed, torch.zeros_like(scores), scores)

    def _is_due(self, token: int) -> bool:
        """Whether a value or a name comes behind this token."""
        return self._table.decode_bytes([token])[-1:] in (b":", b",", b"[", b"{", b"")

    def bytes_of(self, tokens: list[int]) -> list[bytes]:
        """What each token adds to the text."""
        return [self._table.decode_bytes([token]) for token in tokens]


def token_table(tokenizer: Any, vocabulary: int, stops: Sequence[int]) -> Any:
    """The bytes of all tokens as llguidance has them; made once for a tokenizer, which takes a second."""
    known, key = _tables.setdefault(tokenizer, {}), (vocabulary, tuple(stops))
    if key not in known:
        _llguidance()
        from llguidance.hf import from_tokenizer

        try:
            known[key] = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(stops))
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"this model's tokenizer can't be held to a schema ({reason}): use ask()") from error
    return known[key]


def _llguidance() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise MissingExtraError("llguidance", "extract", "reading fields") from error
    return llguidance


def _probability(tokens: list[bytes], logprobs: Sequence[float], span: tuple[int, int]) -> float:
    """Geometric mean over the tokens that have a byte in the span."""
    begin, end, place = *span, 0
    found = []
    for token, logprob in zip(tokens, logprobs, strict=True):
        if place < end and place + len(token) > begin:
            found.append(logprob)
        place += len(token)
    return round(math.exp(sum(found) / len(found)), 4) if found else 1.0


def _spans(raw: bytes, path: str, place: int) -> tuple[int, list[tuple[str, tuple[int, int]]]]:
    """Where the value at `place` ends, and path and bytes of all values within it that are neither lists nor objects.

    `raw` is JSON without white space.
    """
    opened = raw[place : place + 1]
    if opened not in (b"{", b"["):
        end = place + _length(raw, place)
        return end, [(path or "value", (place, end))]
    found: list[tuple[str, tuple[int, int]]] = []
    place, count = place + 1, 0
    while raw[place : place + 1] not in (b"}", b"]"):
        place += raw[place : place + 1] == b","
        inner = f"{path}[{count}]"
        if opened == b"{":
            length = _length(raw, place)
            name = json.loads(raw[place : place + length])
            inner, place = f"{path}.{name}".lstrip("."), place + length + 1
        place, within = _spans(raw, inner, place)
        found, count = found + within, count + 1
    return place + 1, found


def _length(raw: bytes, place: int) -> int:
    """The number of bytes of the text, number or word at `place`."""
    if raw[place : place + 1] == b'"':
        end = place + 1
        while raw[end : end + 1] != b'"':
            end += 2 if raw[end : end + 1] == b"\\" else 1
        return end + 1 - place
    end = place
    while end < len(raw) and raw[end : end + 1] not in (b",", b"}", b"]"):
        end += 1
    return end - place


def _boxes(schema: Schema, value: Any, path: str, source: Size) -> Iterator[tuple[str, Box]]:
    """Every box among the values, in pixels."""
    if isinstance(value, Mapping):
        objects = (one["properties"] for one in (schema, *schema.get("anyOf", ())) if "properties" in one)
        inner: Schema = next(objects, {})
        for name, each in value.items():
            yield from _boxes(inner.get(name, {}), each, f"{path}.{name}".lstrip("."), source)
    elif isinstance(value, str):
        yield from ((path, box) for box in boxes_of(value, source)[:1])
    elif isinstance(value, list):
        choices = [schema, *schema.get("anyOf", ())]
        corners = {"type": "integer", "minimum": 0, "maximum": BOX_FULL}
        if any(one.get("items") == corners and one.get("minItems") == one.get("maxItems") == 4 for one in choices):
            yield from ((path, box) for box in boxes_of(f"<box>[{value}]</box>", source))
            return
        item: Schema = next((one["items"] for one in choices if "items" in one), {})
        for place, each in enumerate(value):
            yield from _boxes(item, each, f"{path}[{place}]", source)
