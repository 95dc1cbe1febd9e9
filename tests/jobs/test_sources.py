"""Which records a job has: folders, files, patterns, pages, tables, and what is wrong with any of them."""

import base64
import io
import json
import shutil

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from minimonkey.errors import DataError, UsageError
from minimonkey.jobs.sources import Source


def save(path, *colours):
    first, *rest = [Image.new("RGB", (8, 8), colour) for colour in colours or ("red",)]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, **({"save_all": True, "append_images": rest} if rest else {}))
    return path


def named(source):
    return [(record.columns.get("file"), record.columns.get("page")) for record in source]


def line_of(error, call, *arguments, **settings):
    with pytest.raises(error) as raised:
        call(*arguments, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_folder_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "a/1.JPG", "b.txt", ".hidden.png", ".hidden/3.png", "A/7.webp", "ä b.gif"):
        save(tmp_path / name) if not name.endswith(".txt") else (tmp_path / name).write_text("no picture")
    (tmp_path / "link").symlink_to(tmp_path)
    source = Source(tmp_path, ["What?", "Why?"])
    assert [file for file, _ in named(source)] == ["2.png", "10.png", "a/1.JPG", "A/7.webp", "ä b.gif"]
    assert len(source) == 5
    assert next(iter(source)).questions == ("What?", "Why?")
    assert named(source) == named(source), "it can be gone through again"


def test_pages_are_records(tmp_path):
    save(tmp_path / "b.pdf", "red", "green", "blue")
    save(tmp_path / "a.png")
    save(tmp_path / "c.tif", "red", "green")
    every = [("a.png", None), ("b.pdf", 1), ("b.pdf", 2), ("b.pdf", 3), ("c.tif", 1), ("c.tif", 2)]
    assert named(Source(tmp_path, ["?"])) == every
    assert named(Source(tmp_path, ["?"], pages="2-")) == [every[0], every[2], every[3], every[5]]
    assert named(Source(tmp_path, ["?"], pages=3)) == [every[0], every[3]], "a document without that page has no record"
    whole = list(Source(tmp_path, ["?"], pages="1-2", whole=True))
    assert [(record.columns, record.pages) for record in whole] == [
        ({"file": "a.png"}, None),
        ({"file": "b.pdf"}, "1-2"),
        ({"file": "c.tif"}, "1-2"),
    ]
    assert [record.pages for record in Source(tmp_path / "b.pdf", ["?"])] == [1, 2, 3]


def test_a_broken_document_is_a_record_with_its_error(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7 and nothing else")
    _, broken = Source(tmp_path, ["?"])
    assert (broken.columns, broken.pictures) == ({"file": "b.pdf"}, ())
    assert "is a damaged PDF" in broken.error


def test_files_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("scans/1.png", "scans/x/2.png", "scans/10.png", "other.png"):
        save(tmp_path / name)
    assert [file for file, _ in named(Source("scans/*.png", ["?"]))] == ["scans/1.png", "scans/10.png"]
    assert [file for file, _ in named(Source("scans/**/*.png", ["?"]))] == ["scans/1.png", "scans/10.png", "scans/x/2.png"]
    assert [file for file, _ in named(Source(["other.png", "scans/x"], ["?"]))] == ["other.png", "2.png"]


def test_lines_of_jsonl(tmp_path):
    save(tmp_path / "images" / "a.png")
    lines = [
        {"image": "images/a.png", "question": "What?", "id": 7},
        {"images": ["images/a.png", "images/a.png"], "answer": "known"},
        {"question": "Without a picture?"},
        {"image": str(tmp_path / "images" / "a.png"), "pages": "1"},
    ]
    table = tmp_path / "questions.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    source = Source(table, ["Else?"])
    records = list(source)
    assert len(source) == len(records) == 4
    path = str(tmp_path / "images" / "a.png")
    assert [(record.pictures, record.questions, record.error) for record in records] == [
        ((path,), ("What?",), None),
        ((path, path), ("Else?",), None),
        ((), ("Without a picture?",), None),
        ((path,), ("Else?",), None),
    ]
    assert records[0].columns == {"image": "images/a.png", "id": 7}
    assert records[1].columns_beside({"answer"}) == {"images": ["images/a.png"] * 2, "input_answer": "known"}
    assert records[3].pages == "1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: expected a JSON object"),
        ("[1]", "line 2: expected a JSON object, got [1]"),
        ('{"image": 5, "question": "?"}', "line 2: image=5: expected a path, a list of paths"),
        ('{"image": ["a.png", {}], "question": "?"}', "line 2: image=['a.png', {}]: expected a path"),
        ('{"image": "a.png", "picture": "b.png", "question": "?"}', "or {bytes, path}, in one column"),
        ('{"image": "a.png"}', "line 2: question=None: expected a text, here or as --question"),
        ('{"image": "a.png", "question": 5}', "line 2: question=5: expected a text"),
        ('{"image": "a.png", "question": " "}', "line 2: question=' ': expected a text"),
        ('{"image": "a.png", "question": "?", "pages": 1.5}', "line 2: pages=1.5: expected a text such as '1-3'"),
        ("[" * 100_000, "line 2: expected a JSON object"),
    ],
)
def test_lines_that_are_wrong(tmp_path, line, message):
    """One record, one error: the others stay."""
    table = tmp_path / "q.jsonl"
    table.write_text('{"question": "first?"}\n' + line + '\n{"question": "last?"}\n')
    first, wrong, last = Source(table)
    assert message in wrong.error and "\n" not in wrong.error
    assert (wrong.pictures, first.error, last.error) == ((), None, None)


def test_rows_of_parquet(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    rows = {
        "image": [{"bytes": picture.getvalue(), "path": None}, {"bytes": None, "path": "a.png"}],
        "question": ["What?", None],
        "id": [1, 2],
    }
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "q.parquet")
    first, second = Source(tmp_path / "q.parquet", ["Else?"])
    assert first.pictures == (picture.getvalue(),)
    assert (first.columns, first.questions) == ({"id": 1}, ("What?",)), "a picture's bytes don't go into the result"
    assert (second.pictures, second.questions) == ((str(tmp_path / "a.png"),), ("Else?",))
    assert len(Source(tmp_path / "q.parquet", ["Else?"])) == 2


def test_what_is_no_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "empty.jsonl").write_text("")
    save(tmp_path / "a.png")
    assert "no such folder or file" in line_of(UsageError, Source, "nowhere", ["?"])
    assert "no record there" in line_of(UsageError, Source, "empty", ["?"])
    assert "no record there" in line_of(UsageError, Source, "empty.jsonl", ["?"])
    assert "no record there" in line_of(UsageError, Source, [], ["?"])
    assert "its name doesn't tell what it is" in line_of(UsageError, Source, "notes.txt", ["?"])
    assert "no picture, PDF or table has such a name" in line_of(UsageError, Source, "*.gif", ["?"])
    assert "is no Parquet file" in line_of(DataError, Source, "broken.parquet", ["?"])
    assert "no question: pictures bring none" in line_of(UsageError, Source, "a.png")
    assert "question='': expected a text" in line_of(UsageError, Source, "a.png", [""])
    assert "expected numbers from 1" in line_of(UsageError, Source, "a.png", ["?"], pages="x")
    assert len(Source("a.png", must_ask=False)) == 1


def test_the_fingerprint_knows_the_files(tmp_path):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "q.txt").write_text("left out")
    before = Source(tmp_path / "in", ["?"]).fingerprint()
    assert Source(tmp_path / "in", ["?"]).fingerprint() == before
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    assert Source(tmp_path / "copy", ["?"]).fingerprint() == before
    save(tmp_path / "in" / "b.png")
    assert Source(tmp_path / "in", ["?"]).fingerprint() != before
    table = tmp_path / "q.jsonl"
    table.write_text('{"question": "a"}\n')
    of_table = Source(table).fingerprint()
    table.write_text('{"question": "b"}\n')
    assert Source(table).fingerprint() != of_table
    assert base64.b16decode(of_table.upper()), "it is a digest"
