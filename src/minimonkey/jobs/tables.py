"""Tables on disk: JSONL and Parquet in; JSONL, CSV and Parquet out. Rows are dicts; knows neither pictures nor questions."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from minimonkey.errors import DataError, MissingExtraError, UsageError, shown

READ = (".jsonl", ".ndjson", ".parquet")
"""Endings of tables that are read."""
ROWS_AT_ONCE = 1000
_FORMULA = re.compile(r"[=+\-@\t\r]")
"""What a cell begins with that a spreadsheet takes for a formula."""


def count_rows(path: Path) -> int:
    """How many rows a table has. Raises DataError if it can't be read, MissingExtraError for Parquet without pyarrow."""
    try:
        if path.suffix.lower() == ".parquet":
            with _parquet_file(path) as file:
                return file.metadata.num_rows
        with open(path, "rb") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from error


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """Each row, or what is wrong with it, and where it stands: "FILE, line 3"."""
    if path.suffix.lower() == ".parquet":
        with _parquet_file(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=64) for row in batch.to_pylist())
            yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
        return
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}, line {number}", _object(line, f"{path}, line {number}")


def _object(line: bytes, where: str) -> dict[str, Any] | DataError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return DataError(f"{where}: expected a JSON object ({' '.join(str(error).split())})")
    return row if isinstance(row, dict) else DataError(f"{where}: expected a JSON object, got {shown(row)}")


def _parquet_file(path: Path) -> Any:
    pyarrow, parquet = _arrow("reading Parquet")
    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is no Parquet file that can be read ({' '.join(str(error).split())[:200]})") from error


def _arrow(purpose: str) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error
    return pyarrow, parquet


def check_writable(path: Path) -> None:
    """Raises UsageError for a name that no table has, MissingExtraError for Parquet without pyarrow."""
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"can't write {path}: expected a name that ends in {', '.join(_WRITERS)}")
    if path.suffix.lower() == ".parquet":
        _arrow("writing Parquet")


def write_rows(path: Path, rows: Callable[[], Iterable[dict[str, Any]]]) -> None:
    """Write a table so that it is there whole or not at all.

    Every row has all columns; one that comes up late stands behind that which is before it there. In CSV and Parquet, lists and
    objects are JSON; in CSV a text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        path: its ending says what is written.
        rows: gives the rows anew at each call: they are gone through twice.

    Raises:
        OSError: the disk is full, or there is no permission.
    """
    found: dict[str, set[type]] = {}
    names: list[str] = []
    for row in rows():
        before = None
        for name, value in row.items():
            if name not in found:
                names.insert(0 if before is None else names.index(before) + 1, name)
            found.setdefault(name, set()).add(type(value))
            before = name
    kinds = {name: found[name] for name in names}
    beside = path.with_name(f"{path.name}.tmp")
    try:
        _WRITERS[path.suffix.lower()](beside, rows(), kinds)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]], kinds: dict[str, set[type]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({name: row.get(name) for name in kinds}, ensure_ascii=False) + "\n")


def _write_csv(path: Path, rows: Iterable[dict[str, Any]], kinds: dict[str, set[type]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_cell(name) for name in kinds])
        for row in rows:
            writer.writerow([_cell(row.get(name)) for name in kinds])


def _cell(value: Any) -> Any:
    """A value as CSV has it."""
    if isinstance(value, str):
        text = value.replace("\0", "")
        return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text
    return _flat(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]], kinds: dict[str, set[type]]) -> None:
    pyarrow, parquet = _arrow("writing Parquet")
    names = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
    types = {}
    for name, found in kinds.items():
        found = found - {type(None)}
        types[name] = names[float] if found == {int, float} else names.get(next(iter(found), str)) if len(found) == 1 else None
    schema = pyarrow.schema([(name, kind or pyarrow.string()) for name, kind in types.items()])

    def value_of(row: dict[str, Any], name: str) -> Any:
        value = row.get(name)
        if value is None or types[name] is not None:
            return value
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    with parquet.ParquetWriter(path, schema) as writer:
        for chunk in _chunks(rows):
            writer.write_table(
                pyarrow.Table.from_pylist([{name: value_of(row, name) for name in types} for row in chunk], schema=schema)
            )


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


_WRITERS = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}
