"""Files of rows: JSON, JSONL and Parquet. A row that can't be used is an error with its file and line, never left out in silence.

Knows which file has which form, not what stands in a row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minimonkey.data.conversation import Conversation
from minimonkey.errors import DataError, MissingExtraError, shown

MAX_LINE_BYTES = 64 * 2**20
"""Default limit on one line of JSONL, and on a whole JSON file sixty-four times that."""


class RawRow(NamedTuple):
    """A row as it is written."""

    where: str
    """File and line."""
    value: Any


def read_conversations(
    file: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    on_error: Callable[[DataError], None] | None = None,
) -> Iterator[Conversation]:
    """The conversations of a file, one after the other; only one is in memory at a time, of JSON excepted.

    Args:
        file: JSONL, a JSON list or Parquet, told by its ending; rows in a form of `docs/data-format.md`.
        images: the folder that paths of pictures and videos are relative to; None: the current one.
        on_error: gets the error of each bad row, and reading goes on; None: the first one is raised.

    Returns:
        An iterator of conversations, in the order of the file.

    Raises:
        DataError: the file can't be read, or a row is wrong (`Conversation.of`), with file and line.
        MissingExtraError: Parquet without pyarrow.
    """
    for row in raw_rows(file, on_error=on_error):
        try:
            yield Conversation.of(row.value, images=images, where=row.where)
        except DataError as error:
            if on_error is None:
                raise
            on_error(error)


def raw_rows(file: str | os.PathLike[str], *, on_error: Callable[[DataError], None] | None = None) -> Iterator[RawRow]:
    """The rows of a file as they are written.

    Args:
        file: JSONL, a JSON list or Parquet.
        on_error: gets the error of each line of JSONL that is no JSON; None: the first one is raised.

    Raises:
        DataError: the file is missing, empty, of another form, or has a broken line.
    """
    path = Path(file)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"{path}: rows are read from {', '.join(_READERS)} files, not from {path.suffix or 'a name without ending'!r}"
        )
    if not os.path.isfile(path):
        raise DataError(f"can't read {path}: {'it is a folder' if os.path.isdir(path) else 'there is no such file'}")
    empty = True

    def bad(error: DataError) -> None:
        nonlocal empty
        empty = False
        if on_error is None:
            raise error
        on_error(error)

    try:
        for row in read(path, bad):
            empty = False
            yield row
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or ' '.join(str(error).split())}") from error
    if empty:
        raise DataError(f"{path} has no rows")


def _jsonl(path: Path, on_error: Callable[[DataError], None]) -> Iterator[RawRow]:
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{where}: the line is longer than {MAX_LINE_BYTES / 2**20:g} MiB: expected one row a line", "too long a line"
                )
            if not line.strip():
                continue
            try:
                yield RawRow(where, parsed(line.rstrip(), where))
            except DataError as error:
                on_error(error)


def parsed(text: bytes | str, where: str) -> Any:
    """The value of a JSON text. Raises DataError, which names the place."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: no text in UTF-8 (byte {error.start + 1})", "no JSON") from error
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{where}: no valid JSON ({error.msg}, {place})", "no JSON") from error
    except (RecursionError, ValueError) as error:  # lists within lists, numbers of thousands of digits
        raise DataError(f"{where}: no JSON that can be read ({shown(str(error))})", "no JSON") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key stands there twice, all are {', '.join(key for key, _ in pairs)}")
    return found


def _json(path: Path, on_error: Callable[[DataError], None]) -> Iterator[RawRow]:
    if path.stat().st_size > 64 * MAX_LINE_BYTES:
        raise DataError(f"{path} is larger than {MAX_LINE_BYTES / 2**24:g} GiB, and a JSON list is read whole: write it as JSONL")
    rows = parsed(path.read_bytes(), str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, not {shown(rows)}; one row a line is JSONL")
    for number, row in enumerate(rows, 1):
        yield RawRow(f"{path}: row {number}", row)


def _parquet(path: Path, on_error: Callable[[DataError], None]) -> Iterator[RawRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "reading Parquet") from error
    try:
        number = 0
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=16):
                where = f"{path}: rows {number + 1} to {number + batch.num_rows}"
                named = zip(batch.schema.names, batch.columns, strict=True)
                columns = {name: _values(column, f"{where}: the column {name!r}") for name, column in named}
                for place in range(batch.num_rows):
                    number += 1
                    row = {name: values[place] for name, values in columns.items() if values[place] is not None}
                    yield RawRow(f"{path}: row {number}", row)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no Parquet file that can be read ({shown(str(error))})") from error


def _values(column: Any, where: str) -> list[Any]:
    """Raises DataError: text that isn't UTF-8, or a time that Python has no type for."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where} can't be read ({shown(str(error))}): write the file without this column") from error


_READERS: dict[str, Callable[[Path, Callable[[DataError], None]], Iterator[RawRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}
