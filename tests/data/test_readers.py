"""Files of rows: what is read, and the file and line of what isn't."""

import json

import pytest

from minimonkey.data.readers import read_conversations
from minimonkey.errors import DataError

ROW = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_every_format(ending, tmp_path):
    file = tmp_path / f"rows.{ending}"
    rows = [ROW | {"id": str(number)} for number in range(40)]
    if ending == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        write(file, json.dumps(rows) if ending == "json" else "\n\n".join(map(json.dumps, rows)))
    found = list(read_conversations(file))
    assert [row.id for row in found] == [str(number) for number in range(40)]
    assert found[2].where == (f"{file}:5" if ending == "jsonl" else f"{file}: row 3")
    assert found[0].answers == ["A"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.txt", "", r"rows are read from \.jsonl, \.json, \.parquet files, not from '\.txt'"),
        ("rows.jsonl", "", "has no rows"),
        ("rows.jsonl", "\n \n", "has no rows"),
        ("rows.jsonl", "{} {}", r":1: no valid JSON \(Extra data, column 4\)"),
        ("rows.jsonl", b"\xff\xfe{}", r":1: no text in UTF-8 \(byte 1\)"),
        ("rows.jsonl", "[" * 100_000, ":1: no JSON that can be read"),
        ("rows.json", "{}", "expected a list of rows"),
        ("rows.json", "[{},\n}", r"no valid JSON \(.*, line 2, column 1\)"),
        ("rows.parquet", "no table", "is no Parquet file that can be read"),
    ],
)
def test_files_that_are_something_else(name, text, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        list(read_conversations(write(tmp_path / name, text)))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        list(read_conversations(tmp_path / "none.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="it is a folder"):
        list(read_conversations(tmp_path / "folder.jsonl"))


def test_reading_goes_on_behind_bad_rows(tmp_path):
    lines = [json.dumps(ROW), "{broken", json.dumps({"conversations": []}), json.dumps(ROW)]
    wrong = []
    found = list(read_conversations(write(tmp_path / "rows.jsonl", "\n".join(lines)), on_error=wrong.append))
    assert [row.where.rpartition(":")[2] for row in found] == ["1", "4"]
    assert [error.kind for error in wrong] == ["no JSON", "another form"]


def test_the_first_bad_row_stops(tmp_path):
    rows = read_conversations(write(tmp_path / "rows.jsonl", json.dumps(ROW) + "\n{broken\n"))
    assert next(rows).answers == ["A"]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no valid JSON"):
        next(rows)


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("minimonkey.data.readers.MAX_LINE_BYTES", 100)
    with pytest.raises(DataError, match=":1: the line is longer than"):
        list(read_conversations(write(tmp_path / "rows.jsonl", "x" * 500)))


def test_a_mark_of_byte_order_is_no_text(tmp_path):
    assert len(list(read_conversations(write(tmp_path / "rows.jsonl", b"\xef\xbb\xbf" + json.dumps(ROW).encode())))) == 1
