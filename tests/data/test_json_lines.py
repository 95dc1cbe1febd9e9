"""Rows by their number, and the one line for what is no row."""

import copy
import json

import pytest

from minimonkey.data.json_lines import JsonLines
from minimonkey.errors import DataError


@pytest.fixture
def lines(tmp_path):
    def write(content: bytes) -> JsonLines:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(content)
        return JsonLines(path)

    return write


def test_rows_by_number_in_any_order(lines):
    rows = lines(b"".join(json.dumps({"id": number, "text": "é" * number}).encode() + b"\n" for number in range(50)))
    assert len(rows) == 50
    assert [rows[number]["id"] for number in (49, 0, 7, -1, 7)] == [49, 0, 7, 49, 7]
    assert [row["id"] for row in rows[10:13]] == [10, 11, 12]
    assert [row["id"] for row in rows] == list(range(50)) and rows[33]["text"] == "é" * 33
    with pytest.raises(IndexError):
        rows[50]


def test_byte_order_mark_blank_lines_and_windows_line_ends(lines):
    rows = lines(b'\xef\xbb\xbf{"id": 0}\r\n\r\n{"id": 1}\r\n  \n\n{"id": 2}')
    assert [row["id"] for row in rows] == [0, 1, 2]
    assert [rows.line_number(number) for number in (0, 1, 2, -1)] == [1, 3, 6, 6]
    assert rows.where(1).endswith("rows.jsonl, line 3")


def test_an_empty_file_has_no_rows(lines):
    assert len(lines(b"")) == len(lines(b"\n \n")) == 0


def test_workers_may_have_a_copy(lines):
    rows = copy.deepcopy(lines(b'{"id": 0}\n{"id": 1}\n'))
    assert rows[1] == {"id": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": 1', "no valid JSON (Expecting ',' delimiter at column 9), got '{\"id\": 1'"),
        (b"[1, 2]", "expected an object {...}, got [1, 2]"),
        (b'{"id": "\xff"}', "no text in UTF-8"),
        (b'{"id": ' + b"1" * 5000 + b"}", "no valid JSON (a number with too many digits)"),
        (b"[" * 100_000, "no valid JSON (it's nested too deeply)"),
    ],
    ids=["cut short", "no object", "latin 1", "long number", "nested"],
)
def test_a_wrong_line_is_named(lines, line, message):
    rows = lines(b'{"id": 0}\n\n' + line + b"\n")
    assert rows[0] == {"id": 0}
    with pytest.raises(DataError) as error:
        rows[1]
    assert f"rows.jsonl, line 3: {message}" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_changes_is_noticed(lines):
    """Lines would begin elsewhere."""
    rows = lines(b'{"id": 0}\n{"id": 1}\n')
    rows.path.write_bytes(b'{"id": 10}\n{"id": 11}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl: has changed since its lines were found"):
        rows[0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: No such file"):
        JsonLines(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=f"{tmp_path}: Is a directory"):
        JsonLines(tmp_path)
