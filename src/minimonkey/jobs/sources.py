"""Where records come from: folders, files, patterns, pages of documents, lines and rows of tables.

A source can be gone through again, and gives the same records in the same order as long as its files are the same.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minimonkey.documents import check_pages, page_count, page_numbers
from minimonkey.errors import DataError, PictureError, UsageError, shown
from minimonkey.jobs import tables
from minimonkey.jobs.records import Record

PICTURE_ENDINGS = (
    *(".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm", ".pdf", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Files of a folder that are read; others are left out."""
DOCUMENT_ENDINGS = (".pdf", ".tif", ".tiff")
"""Files that may have several pages, each a record."""
PICTURE_COLUMNS = ("image", "images", "picture", "pictures")
"""Where a row of a table names its picture or pictures."""


class Source:
    """All records of a job, in order. They are found when it is made; tables are read as they are gone through."""

    def __init__(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        questions: Iterable[str] = (),
        *,
        pages: str | int | None = None,
        whole: bool = False,
        must_ask: bool = True,
    ) -> None:
        """Find all records.

        Args:
            inputs: folders (all pictures and PDFs in them and below, in natural order, hidden ones left out), files, patterns such
                as "scans/**/*.png", JSONL files of {"image": path, "question": text} and Parquet files with such columns. Other
                columns come along into the result. Paths in a table are relative to its folder.
            questions: asked of each record that brings none.
            pages: which pages of each PDF and TIFF file, as in "1-3"; those that a document hasn't got are left out. None: all.
            whole: a document is one record with all these pages, not one record for each page.
            must_ask: whether a record needs a question; one whose fields are filled in needs none.

        Raises:
            UsageError: nothing is found, or a question is empty.
            DataError: a table can't be read.
            MissingExtraError: a PDF without pypdfium2, Parquet without pyarrow.
        """
        named = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
        self.inputs, self.questions = tuple(os.fspath(name) for name in named), tuple(questions)
        self._pages, self._whole, self._must_ask = pages, whole, must_ask
        for question in self.questions:
            if not isinstance(question, str) or not question.strip():
                raise UsageError(f"question={shown(question)}: expected a text that is not empty")
        check_pages(pages)
        self._found: list[Record | Path] = []
        self._count = 0
        for name in self.inputs:
            for path, known_as in _files(name):
                self._add(path, known_as)
        if not self._count:
            raise UsageError(f"{', '.join(self.inputs) or 'nothing'}: no record there; expected pictures, PDFs, or rows of a table")
        if must_ask and not self.questions and any(isinstance(each, Record) for each in self._found):
            raise UsageError("no question: pictures bring none, say what to ask of each")

    def __len__(self) -> int:
        """The number of records."""
        return self._count

    def __iter__(self) -> Iterator[Record]:
        for each in self._found:
            if isinstance(each, Record):
                yield each
                continue
            for where, row in tables.read_rows(each):
                if isinstance(row, DataError):
                    yield Record({"file": str(each)}, (), error=str(row))
                else:
                    yield self._record(row, each.parent, where)

    def fingerprint(self) -> str:
        """Changes with the name or size of any picture, and with any byte of a table."""
        digest = hashlib.sha256()
        for each in self._found:
            if isinstance(each, Record):
                sizes = [os.path.getsize(path) for path in each.pictures if os.path.exists(path)]
                digest.update(repr((each.columns, each.pages, sizes)).encode())
            else:
                with open(each, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _add(self, path: Path, name: str) -> None:
        ending, columns = path.suffix.lower(), {"file": name}
        if ending in tables.READ:
            self._found.append(path)
            self._count += tables.count_rows(path)
            return
        if self._whole or ending not in DOCUMENT_ENDINGS:
            pages = self._pages if ending in DOCUMENT_ENDINGS else None
            records = [Record(columns, (str(path),), pages, self.questions)]
        else:
            try:
                numbers = page_numbers(self._pages, page_count(path), name, strict=False)
                records = [Record(columns | {"page": number}, (str(path),), number, self.questions) for number in numbers]
            except PictureError as error:
                records = [Record(columns, (), None, self.questions, error=str(error))]
        self._found.extend(records)
        self._count += len(records)

    def _record(self, row: dict[str, Any], folder: Path, where: str) -> Record:
        """A row of a table."""
        columns = {name: value for name, value in row.items() if name != "question" and not _has_bytes(value)}
        named = [name for name in PICTURE_COLUMNS if row.get(name) is not None]
        given = row[named[0]] if named else []
        pictures = [_picture(each, folder) for each in (given if isinstance(given, list | tuple) else [given])]
        question, pages, wrong = row.get("question"), columns.get("pages"), None
        questions = self.questions if question is None else (question,)
        if None in pictures or len(named) > 1:
            wrong = f"{named[0]}={shown(given)}: expected a path, a list of paths, or {{bytes, path}}, in one column"
        elif not all(isinstance(each, str) and each.strip() for each in questions) or not (questions or not self._must_ask):
            wrong = f"question={shown(question)}: expected a text, here or as --question"
        elif not isinstance(pages, str | int | None):
            wrong = f"pages={shown(pages)}: expected a text such as '1-3'"
        if wrong is not None:
            return Record(columns, (), questions=() if question is None else (shown(question),), error=f"{where}: {wrong}")
        return Record(columns, tuple(each for each in pictures if each is not None), pages, questions)


def _files(name: str) -> Iterator[tuple[Path, str]]:
    """Files that a folder, a file or a pattern stands for, each with the name that the result has it by."""
    path = Path(name)
    if path.is_dir():
        yield from ((path / below, below.as_posix()) for below in _pictures_below(path))
    elif path.exists():
        if path.suffix.lower() not in (*PICTURE_ENDINGS, *tables.READ):
            endings = ", ".join((*tables.READ, ".pdf"))
            raise UsageError(f"{name}: its name doesn't tell what it is; expected a folder, {endings}, or a picture such as .png")
        yield path, name
    elif glob.has_magic(name):
        found = [each for each in glob.glob(name, recursive=True) if Path(each).suffix.lower() in PICTURE_ENDINGS + tables.READ]
        if not found:
            raise UsageError(f"{name}: no picture, PDF or table has such a name")
        yield from ((Path(each), each) for each in sorted(found, key=_natural))
    else:
        raise UsageError(f"can't read {name}: there is no such folder or file")


def _pictures_below(folder: Path) -> list[Path]:
    """Pictures and PDFs of a folder and those below, relative to it, in natural order; links to folders aren't followed."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"can't read {error.filename}: {error.strerror}") from error

    found = []
    for where, below, names in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [
            Path(where, name).relative_to(folder)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_ENDINGS
        ]
    return sorted(found, key=lambda path: _natural(path.as_posix()))


def _natural(name: str) -> tuple[list[str | int], str]:
    """A name as text, number, text, number ...: 2.png comes before 10.png."""
    parts: list[str | int] = [int(part) if index % 2 else part.casefold() for index, part in enumerate(re.split("([0-9]+)", name))]
    return parts, name


def _has_bytes(value: Any) -> bool:
    """Whether a value holds a picture's bytes, which don't go into the result."""
    if isinstance(value, list | tuple):
        return any(map(_has_bytes, value))
    if isinstance(value, dict):
        return any(map(_has_bytes, value.values()))
    return isinstance(value, bytes)


def _picture(value: Any, folder: Path) -> str | bytes | None:
    """What `load_pages` takes, of a path or of {bytes, path} as datasets writes pictures; None for anything else."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value and "\0" not in value:
        return str(folder / value)
    return value if isinstance(value, bytes) and value else None
