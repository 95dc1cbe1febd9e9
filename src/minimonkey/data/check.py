"""Is a file fit to train on? Every row is read, every picture opened; all that is wrong is counted by kind.

Knows no model unless it is given a processor, by which lengths are counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from minimonkey.data.conversation import Conversation, Medium
from minimonkey.data.encoding import too_long
from minimonkey.data.lengths import lengths
from minimonkey.data.readers import read_conversations
from minimonkey.documents import load_frames, load_picture
from minimonkey.errors import DataError, MiniMonkeyError, PictureError
from minimonkey.pyramid import PyramidSpec

FIRST = 5
"""Messages that are kept of each kind of error."""
WINDOW = 64
"""Rows whose pictures are looked at side by side."""


@dataclass
class Report:
    """What a check found."""

    rows: int = 0
    """Rows that are fit."""
    pictures: int = 0
    """Pictures and videos that could be read, each file once."""
    counts: Counter[str] = field(default_factory=Counter)
    """Rows that aren't, by kind."""
    messages: dict[str, list[str]] = field(default_factory=dict)
    """The first messages of each kind."""

    @property
    def bad_rows(self) -> int:
        return self.counts.total()

    def add(self, error: DataError) -> None:
        self.counts[error.kind] += 1
        first = self.messages.setdefault(error.kind, [])
        if len(first) < FIRST:
            first.append(str(error))

    def lines(self) -> Iterator[str]:
        """The report for people."""
        for kind, count in self.counts.most_common():
            yield f"{count} {'row' if count == 1 else 'rows'}: {kind}"
            yield from (f"  {message}" for message in self.messages[kind])
            if count > FIRST:
                yield f"  ... and {count - FIRST} more"
        yield f"{self.rows} rows are fit to train on, {self.bad_rows} are not; {self.pictures} pictures and videos were read"


def check(
    file: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    processor: Any = None,
    pyramid: PyramidSpec | Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Report:
    """Read every row of a file and every picture.

    Args:
        file: JSONL, JSON or Parquet.
        images: the folder that paths are relative to.
        processor: a model's, to count tokens with; None: lengths aren't looked at.
        pyramid: how pictures are cut; None: as the processor does.
        max_tokens: the most tokens that a row may have.
        workers: threads that read pictures; None: as many as there are cores.
        progress: gets the number of rows that are done.

    Returns:
        All that is wrong, by kind.

    Raises:
        DataError: the file itself can't be read.
    """
    report, seen = Report(), dict[Any, str]()

    def look(row: Conversation) -> DataError | None:
        try:
            for medium in row.media:
                _read(medium, seen)
            if processor is not None and max_tokens is not None:
                found = lengths(row, processor, pyramid)
                if found.tokens > max_tokens:
                    return too_long(row, found.tokens, found.tiles, max_tokens)
        except PictureError as error:
            return DataError(f"{row.where}: {error}", "unreadable picture")
        except DataError as error:
            return error
        except MiniMonkeyError as error:
            return DataError(f"{row.where}: {error}")
        return None

    rows = read_conversations(file, images, on_error=report.add)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1, "minimonkey-check") as pool:
        while window := list(islice(rows, WINDOW)):
            for error in pool.map(look, window):
                if error is None:
                    report.rows += 1
                else:
                    report.add(error)
            progress(report.rows + report.bad_rows)
    report.pictures = sum(not wrong for wrong in seen.values())
    return report


def _read(medium: Medium, seen: dict[Any, str]) -> None:
    """Open a picture or the frames of a video, each file once; raises PictureError."""
    name = medium.source if isinstance(medium.source, str) else hash(medium.source)
    if (wrong := seen.get(name)) is None:
        try:
            load_picture(medium.source) if medium.kind == "image" else load_frames(str(medium.source), most=2)
            wrong = ""
        except PictureError as error:
            wrong = str(error)
        seen[name] = wrong
    if wrong:
        raise PictureError(wrong)
