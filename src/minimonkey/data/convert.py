"""Rows from one written form to another, and SynthDoG's Parquet to rows. The new file is there whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

from minimonkey.data.conversation import KEYS, MARKS, ROLES, Conversation, Medium, Message
from minimonkey.data.readers import parsed, raw_rows
from minimonkey.errors import DataError, MissingExtraError, UsageError, shown

Form = Literal["conversations", "messages"]
SYNTHDOG_QUESTION = "Read all the text in the picture."
"""What is asked of a SynthDoG picture, whose file has no question."""
FORMATS = (".jsonl", ".json", ".parquet")


class Converted(NamedTuple):
    """What was written."""

    rows: int
    pictures: int
    """Pictures that were only in the file, and are files now."""


def convert_rows(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    form: Form = "conversations",
    images: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Converted:
    """Write the rows of a file in another form.

    Args:
        source: JSONL, JSON or Parquet, in any form that `read_conversations` takes, or SynthDoG's (`image` and `ground_truth`).
        destination: .jsonl, .json or .parquet.
        form: "conversations" (human and gpt) or "messages" (user and assistant).
        images: the folder that paths are relative to; paths stay as they are written, links in them as they are.
        pictures: the folder for pictures that are only in the file; None: one beside the destination, named like it.
        progress: gets the number of rows that are done.

    Returns:
        How many rows and pictures were written.

    Raises:
        DataError: a row is wrong, or the other form can't hold it; nothing is written then but pictures.
        UsageError: the destination exists, or can't be written.
    """
    target = Path(destination)
    if target.suffix.lower() not in FORMATS:
        raise UsageError(f"{target}: rows are written to {', '.join(FORMATS)} files")
    if os.path.lexists(target):
        raise UsageError(f"{target} exists: name another file, or remove it")
    folder = Path(pictures) if pictures is not None else target.with_name(f"{target.stem}_images")
    base = Path(images or ".")
    saved: set[str] = set()

    def name_of(medium: Medium) -> str:
        if isinstance(medium.source, str):
            path = Path(medium.source)
            return str(path.relative_to(base)) if path.is_relative_to(base) else medium.source
        path = folder / f"{hashlib.sha256(medium.source).hexdigest()[:20]}{_ending(medium.source)}"
        if path.name not in saved:
            folder.mkdir(parents=True, exist_ok=True)
            with _whole(path) as name:
                Path(name).write_bytes(medium.source)
            saved.add(path.name)
        return os.path.relpath(os.path.realpath(path), os.path.realpath(base))

    try:
        with _writer(target) as write:
            count = 0
            for raw in raw_rows(source):
                value = synthdog_row(raw.value, raw.where) if _is_synthdog(raw.value) else raw.value
                write(written(Conversation.of(value, images=images, where=raw.where), form, name_of), raw.where)
                count += 1
                progress(count)
    except OSError as error:
        raise UsageError(f"can't write {error.filename or target}: {error.strerror or error}") from error
    return Converted(count, len(saved))


def written(row: Conversation, form: Form, name_of: Callable[[Medium], str] = lambda medium: str(medium.source)) -> dict[str, Any]:
    """A conversation as a row of either form.

    Args:
        row: the conversation.
        form: "conversations" or "messages".
        name_of: how a medium is called in the row.

    Returns:
        The row; keys that this library doesn't read are kept.

    Raises:
        DataError: a text has a mark in it that is no picture's, which a row with marks can't say.
    """
    marks = {kind: mark for mark, kind in MARKS.items()}
    names = {role: name for name, role in ROLES.items()}
    media = iter(row.media)
    result: dict[str, Any] = {} if row.id is None else {"id": row.id}
    sources: dict[str, list[str]] = {"image": [], "video": []}
    turns = []
    for message in row.messages:
        _check_marks(row, message)
        text = message.texts[0]
        for following in message.texts[1:]:
            medium = next(media)
            sources[medium.kind].append(name_of(medium))
            text += marks[medium.kind] + following
        by = {"from": names[message.role], "value": text} if form == "conversations" else {"role": message.role, "content": text}
        turns.append(by)
    for kind, paths in sources.items():
        if paths:
            result[kind if len(paths) == 1 or form == "conversations" else f"{kind}s"] = paths[0] if len(paths) == 1 else paths
    further = {key: value for key, value in row.raw.items() if key not in (*KEYS, "id")}
    return result | further | {form: turns}


def _check_marks(row: Conversation, message: Message) -> None:
    kinds = {"image", *(medium.kind for medium in row.media)}
    for mark in (mark for mark, kind in MARKS.items() if kind in kinds and message.role == "user"):
        if any(mark in text for text in message.texts):
            what = f"{mark} is plain text in {shown(message.text)}"
            raise DataError(f"{row.where}: {what}, and would be read as a mark: reword it", "marks")


def _is_synthdog(value: Any) -> bool:
    return isinstance(value, Mapping) and "ground_truth" in value and not {"conversations", "messages"} & value.keys()


def synthdog_row(value: Mapping[str, Any], where: str = "the row") -> dict[str, Any]:
    """A SynthDoG row (`image` and `ground_truth`, JSON with gt_parse.text_sequence) in the published form.

    Raises DataError if its text isn't where it should be.
    """
    truth = parsed(value["ground_truth"], where) if isinstance(value["ground_truth"], str) else value["ground_truth"]
    try:
        text = truth["gt_parse"]["text_sequence"]
    except (TypeError, KeyError) as error:
        raise DataError(f"{where}: ground_truth has no gt_parse.text_sequence, as SynthDoG's rows have") from error
    asked = {"from": "human", "value": f"<image>\n{SYNTHDOG_QUESTION}"}
    return {"image": value.get("image"), "conversations": [asked, {"from": "gpt", "value": text}]}


def _ending(data: bytes) -> str:
    kinds = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif"}
    return next((ending for head, ending in kinds.items() if data.startswith(head)), ".img")


# -- files -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def _whole(target: Path) -> Iterator[str]:
    """The name of a file to write; it takes the target's once it's whole, or is gone."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        yield name
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _writer(target: Path) -> Iterator[Callable[[dict[str, Any], str], None]]:
    """A function that writes a row, which comes from that file and line; the file takes its name once all are written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _whole(target) as name:
        if target.suffix.lower() == ".parquet":
            rows: list[dict[str, Any]] = []
            yield lambda row, where: rows.append(row)
            _write_parquet(rows, name)
            return
        is_list = target.suffix.lower() == ".json"
        before = chain(["[\n"], repeat(",\n")) if is_list else chain([""], repeat("\n"))
        # half a character of a key that isn't read is escaped, as JSON writes it
        with open(name, "w", encoding="utf-8", errors="backslashreplace") as file:
            yield lambda row, where: print(next(before) + _as_json(row, where), end="", file=file)
            file.write("\n]\n" if is_list else "\n")


def _as_json(row: dict[str, Any], where: str) -> str:
    try:
        return json.dumps(row, ensure_ascii=False)
    except TypeError as error:  # dates, decimals and bytes of Parquet
        key = next((key for key, value in row.items() if not _fits_json(value)), "a key")
        what = f"the value of {key!r} can't be written as JSON ({error})"
        raise DataError(f"{where}: {what}: write Parquet, or leave it out") from error


def _fits_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _write_parquet(rows: list[dict[str, Any]], name: str) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "writing Parquet") from error
    lists = {key for row in rows for key, value in row.items() if isinstance(value, list)}
    columns = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [[row[key]] if key in lists and isinstance(row.get(key), str) else row.get(key) for row in rows]
        try:
            columns[key] = pyarrow.array(values)
            parquet.write_table(pyarrow.table({key: columns[key][:1]}), pyarrow.BufferOutputStream())
        except (pyarrow.ArrowException, OverflowError, UnicodeError) as error:
            what = f"the values of {key!r} make no column of Parquet ({shown(str(error))})"
            raise DataError(f"{what}: write JSONL, or leave the key out") from error
    parquet.write_table(pyarrow.table(columns), name)
