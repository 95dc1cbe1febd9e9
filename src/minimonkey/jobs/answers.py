"""The work of `minimonkey batch`: a model answers the questions of records, or fills in their fields.

A picture is encoded once for all its questions; pictures with about as many tiles go through the model at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL.Image import Image

from minimonkey.compression.spec import CompressionSpec
from minimonkey.documents import load_pages
from minimonkey.errors import MiniMonkeyError, PictureError, PromptError, ShortOfMemoryError, UsageError
from minimonkey.inference import VisionLanguageModel, load
from minimonkey.inference.extract import Extraction, Fields
from minimonkey.jobs.job import Rows
from minimonkey.jobs.records import Record
from minimonkey.pyramid import Size

AT_ONCE = 8
"""Questions about different pictures that are answered at once, if memory allows; so many share one prompt's reading at most."""
OF_OPENING = ("system", "pyramid", "compression")
"""Settings of `ask` that an open picture has for all its questions."""
OF_A_RECORD = (PictureError, PromptError, ShortOfMemoryError)
"""What is wrong with one record; all other errors are those of the job."""


@dataclass(frozen=True)
class Answers:
    """Which model is asked, and how. The fields are those of `load` and `ask`, as JSON has them."""

    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantize: Any = None
    engine: Any = None
    pyramid: dict[str, Any] | None = None
    compression: str | None = None
    system: str | None = None
    max_new_tokens: int | None = None
    schema: Any = None
    """A JSON schema, or the short form of one: fields that are filled in, in place of a free answer."""

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def check(self) -> None:
        """Raises UsageError or MissingExtraError for what can be seen to be wrong before a model is loaded."""
        if self.schema is not None:
            _check_names(Fields.of(self.schema))
        if self.compression is not None:
            CompressionSpec.parse(self.compression)

    def open(self) -> Callable[[Sequence[Record], int], Rows]:
        vlm = load(self.model, device=self.device, dtype=self.dtype, quantize=self.quantize, engine=self.engine)
        call: dict[str, Any] = {"system": self.system, "pyramid": self.pyramid, "max_new_tokens": self.max_new_tokens}
        if self.compression is not None:
            call["compression"] = CompressionSpec.parse(self.compression)
        return Asker(vlm, None if self.schema is None else Fields.of(self.schema), **call)


@dataclass(frozen=True)
class _Asked:
    """One row to be."""

    index: int
    """Its place among the rows of the window."""
    record: Record
    question: str | None
    pictures: list[Image]


class Asker:
    """A loaded model that answers windows of records; threads take turns."""

    def __init__(self, vlm: VisionLanguageModel, fields: Fields | None = None, **call: Any) -> None:
        """`fields` are filled in, if there are any; `call` are settings of `ask`."""
        self.vlm, self.fields, self.call = vlm, fields, call
        self.at_once = AT_ONCE
        compression = call.get("compression", vlm.compression)
        self._opens = fields is None and (compression is None or not compression.depends_on_question)
        names = ("answer", "boxes", "mean_logprob") if fields is None else (*fields.names, "confidence", "text")
        self._taken = {"question", *names, "notes", "error"}
        if fields is not None:
            _check_names(fields)

    def __call__(self, records: Sequence[Record], done: int) -> Rows:
        """The rows of a window, but for those of the first `done` that needn't be made again."""
        groups, failed = self._groups(records)
        yield from failed
        spec = self.vlm.processor.image_processor.spec_for({"pyramid": self.call.get("pyramid")})
        tiles = [sum(spec.plan(Size(one.height, one.width)).tile_count for one in group[0].pictures) for group in groups]
        by_size = [groups[place] for place in sorted(range(len(groups)), key=tiles.__getitem__, reverse=True)]
        together: list[_Asked] = []
        for group in by_size:
            if len(group) > 1 and self._opens and group[0].pictures:
                if any(row.index >= done for row in group):
                    yield from self._rows(group, self._about_one(group))
            else:
                together += group
        while together:
            chunk, together = together[: self.at_once], together[self.at_once :]
            if any(row.index >= done for row in chunk):
                yield from self._rows(chunk, self._one_by_one(chunk))

    def _groups(self, records: Sequence[Record]) -> tuple[list[list[_Asked]], list[tuple[int, dict[str, Any]]]]:
        """Rows that are about the same pictures, and rows of records that can't be read."""
        groups: dict[Any, list[_Asked]] = {}
        failed: list[tuple[int, dict[str, Any]]] = []
        loaded: dict[Any, list[Image] | MiniMonkeyError] = {}
        index = 0
        for record in records:
            if record.key not in loaded and record.error is None:
                loaded[record.key] = _load(record)
            for question in record.questions or (None,):
                pictures = PictureError(record.error) if record.error is not None else loaded[record.key]
                if isinstance(pictures, MiniMonkeyError):
                    failed.append((index, self._row(record, question, pictures, [])))
                else:
                    groups.setdefault(record.key, []).append(_Asked(index, record, question, pictures))
                index += 1
        return list(groups.values()), failed

    def _about_one(self, group: list[_Asked]) -> list[Any]:
        """An answer to each question about the same pictures, which are encoded and read once."""
        opening = {name: value for name, value in self.call.items() if name in OF_OPENING}
        asking = {name: value for name, value in self.call.items() if name not in OF_OPENING}
        try:
            answers: list[Any] = []
            with self.vlm.open(group[0].pictures, **opening) as page:
                for begin in range(0, len(group), self.at_once):
                    answers += page.ask_many([row.question or "" for row in group[begin : begin + self.at_once]], **asking)
            return answers
        except (*OF_A_RECORD, UsageError):  # of one question maybe; what is wrong with all will show again
            return self._one_by_one(group)

    def _one_by_one(self, rows: list[_Asked]) -> list[Any]:
        """An answer or an error to each row: all at once, or if that fails the half of them, down to the one that can't be."""
        try:
            if self.fields is None:
                return self.vlm.batch([(row.pictures, row.question or "") for row in rows], **self.call)
            return self.vlm.extractions([row.pictures for row in rows], self.fields, [row.question for row in rows], **self.call)
        except OF_A_RECORD as error:
            if len(rows) == 1:
                return [error]
            half = len(rows) // 2
            if isinstance(error, ShortOfMemoryError) and half < self.at_once:
                self.at_once = half
                print(f"minimonkey: {error}; from now on {half} at once", file=sys.stderr)
        return self._one_by_one(rows[:half]) + self._one_by_one(rows[half:])

    def _rows(self, asked: list[_Asked], answers: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        for row, answer in zip(asked, answers, strict=True):
            yield row.index, self._row(row.record, row.question, answer, row.pictures)

    def _row(self, record: Record, question: str | None, answer: Any, pictures: list[Image]) -> dict[str, Any]:
        """What stands in the table."""
        row = record.columns_beside(self._taken)
        if question is not None:
            row["question"] = question
        error = " ".join(str(answer).split()) if isinstance(answer, MiniMonkeyError) else None
        if self.fields is not None:
            found = answer if isinstance(answer, Extraction) else None
            row |= dict.fromkeys(self.fields.names) | (found.columns if found else {})
            row |= {"confidence": found and found.lowest_confidence, "text": found and found.text}
            error = found.error if found else error
        elif error is None:
            row |= {"answer": answer.text} | ({"boxes": [list(box) for box in answer.boxes]} if answer.boxes else {})
            row["mean_logprob"] = round(answer.mean_logprob, 4)
        else:
            row |= {"answer": None, "mean_logprob": None}
        notes = [note for picture in pictures for note in picture.info["notes"]]
        return row | ({"notes": "; ".join(notes)} if notes else {}) | {"error": error}


def _check_names(fields: Fields) -> None:
    if clash := {"question", "confidence", "text", "notes", "error"} & set(fields.names):
        raise UsageError(f"field {min(clash)!r} is a column of the table already: give it another name")


def _load(record: Record) -> list[Image] | MiniMonkeyError:
    try:
        return [page for source in record.pictures for page in load_pages(source, record.pages)]
    except (PictureError, ShortOfMemoryError, UsageError) as error:  # the last about its own pages
        return error
