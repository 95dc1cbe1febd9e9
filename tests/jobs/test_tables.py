"""What is written is what was there, in every format, whole or not at all."""

import csv
import json

import pyarrow.parquet
import pytest

from minimonkey.errors import UsageError
from minimonkey.jobs import tables

ROWS = [
    {"file": "a.png", "answer": '1,5 "€"\nand more', "n": 1, "x": 1, "ok": True, "error": None},
    {"file": "b.png", "answer": "=1+1", "n": 2, "x": 2.5, "ok": None, "boxes": [[1, 2, 3, 4]], "error": None},
    {"file": "c.png", "answer": None, "error": "it is broken"},
]
COLUMNS = ["file", "answer", "n", "x", "ok", "boxes", "error"]


@pytest.fixture
def written(tmp_path):
    def write(ending, rows=ROWS):
        path = tmp_path / f"table{ending}"
        tables.write_rows(path, lambda: iter(rows))
        assert [each.name for each in tmp_path.iterdir()] == [path.name], "nothing else is left"
        return path

    return write


def test_jsonl(written):
    lines = [json.loads(line) for line in written(".jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [COLUMNS] * 3
    assert lines == [dict.fromkeys(COLUMNS) | row for row in ROWS]


def test_csv(written):
    with written(".csv").open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert first == {"file": "a.png", "answer": '1,5 "€"\nand more', "n": "1", "x": "1", "ok": "True", "error": "", "boxes": ""}
    assert (second["answer"], second["boxes"]) == ("'=1+1", "[[1, 2, 3, 4]]")
    assert (third["answer"], third["error"]) == ("", "it is broken")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *(("=cmd|x", "'=cmd|x"), ("+1 a", "'+1 a"), ("-2.50", "-2.50"), ("+49", "+49")),
        *(("@x", "'@x"), ("\tx", "'\tx"), ("a=1", "a=1"), ("a\0b", "ab")),
    ],
)
def test_cells_are_no_formulas(written, text, cell):
    with written(".csv", [{"answer": text}]).open(newline="") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == [cell]


def test_parquet(written):
    table = pyarrow.parquet.read_table(written(".parquet"))
    assert table.column_names == COLUMNS
    assert [str(field.type) for field in table.schema] == ["string", "string", "int64", "double", "bool", "string", "string"]
    assert table.to_pylist()[1] == dict.fromkeys(COLUMNS) | ROWS[1] | {"boxes": "[[1, 2, 3, 4]]", "x": 2.5}
    assert table["x"].to_pylist() == [1.0, 2.5, None]


def test_parquet_of_many_rows_and_mixed_kinds(written, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 4)
    rows = [{"n": number if number % 2 else str(number), "none": None} for number in range(11)]
    table = pyarrow.parquet.read_table(written(".parquet", rows))
    assert table["n"].to_pylist() == [str(number) for number in range(11)]
    assert table["none"].to_pylist() == [None] * 11


def test_there_is_no_half_table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("as before")

    def rows():
        yield {"a": 1}
        if (tmp_path / "table.csv.tmp").exists():
            raise RuntimeError("in the second round")

    with pytest.raises(RuntimeError):
        tables.write_rows(path, rows)
    assert path.read_text() == "as before"
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_names_that_no_table_has(tmp_path):
    for name in ("table", "table.xlsx", "table.csv.gz"):
        with pytest.raises(UsageError, match=r"expected a name that ends in \.jsonl, \.csv, \.parquet"):
            tables.check_writable(tmp_path / name)


def test_a_table_that_was_written_can_be_read(written):
    path = written(".jsonl")
    assert [row for _, row in tables.read_rows(path)] == [dict.fromkeys(COLUMNS) | row for row in ROWS]
    assert tables.count_rows(path) == 3
