"""JSON Lines as a sequence: row N of a file by its number, without holding the file in memory. Knows no schema.

Only the place of each line is kept, 8 bytes a row: 4 MB for 500,000. A row is read and parsed when it's asked for.
"""

from __future__ import annotations

import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from minimonkey.errors import DataError, shown

BOM = b"\xef\xbb\xbf"
CHUNK_BYTES = 2**24


class JsonLines(Sequence[dict[str, Any]]):
    """The rows of a JSONL file, one object a line. Blank lines are no rows.

    May be shared by threads and inherited or pickled by processes: a file is open only while a row is read.
    """

    def __init__(self, path: Path | str) -> None:
        """Find the lines. Raises DataError: the file is missing or unreadable."""
        self.path = Path(path)
        self._starts, self._blanks, self._bytes = _line_starts(self.path)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, number: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, number: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, number: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """A row, parsed anew each time. Raises DataError, with file and line: no JSON, no object, or a file that has changed."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        start = self._starts[number]
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != self._bytes:
                    raise DataError(
                        f"{self.path}: has changed since its lines were found; start again, files must stay as they are"
                    )
                file.seek(start)
                line = file.readline()
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}") from error
        try:
            row = json.loads(line.rstrip())
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where(number)}: no text in UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.where(number)}: no valid JSON ({_reason(error)}), got {shown(_text(line))}") from error
        if not isinstance(row, dict):
            raise DataError(f"{self.where(number)}: expected an object {{...}}, got {shown(row)}")
        return row

    def where(self, number: int) -> str:
        """The file and line of a row, counted from 1 as editors do, for messages."""
        return f"{self.path}, line {self.line_number(number)}"

    def line_number(self, number: int) -> int:
        """The line of a row in its file, from 1."""
        number = range(len(self))[number]
        return number + 1 + bisect_right(self._blanks, number)


def _line_starts(path: Path) -> tuple[array, array, int]:
    """Where each row starts, in bytes; for each blank line the number of the row that follows it; the bytes of the file."""
    starts, blanks, place = array("q"), array("q"), 0
    try:
        with path.open("rb", buffering=CHUNK_BYTES) as file:
            for line in file:
                text = line.removeprefix(BOM) if place == 0 else line
                if text.strip():
                    starts.append(place + len(line) - len(text))
                else:
                    blanks.append(len(starts))
                place += len(line)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    return starts, blanks, place


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").strip()


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "it's nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"
