"""`minimonkey batch` and `minimonkey extract`, from words to a table, with a tiny random model."""

import csv
import json

import pytest
from PIL import Image

LENGTH = ("--max-new-tokens", "3")


@pytest.fixture
def scans(tmp_path):
    """Three pictures, one of which is broken, and a document of two pages."""
    where = tmp_path / "scans"
    where.mkdir()
    pages = [Image.linear_gradient("L").resize(size).convert("RGB") for size in ((90, 60), (60, 90), (60, 60), (40, 60))]
    pages[0].copy().save(where / "1.png")
    pages[1].copy().save(where / "10.png")
    (where / "2.png").write_bytes(b"no picture")
    pages[2].copy().save(where / "report.pdf", save_all=True, append_images=[pages[3].copy()])
    return where


def test_a_folder_in_a_table_out(run, folder, scans, tmp_path):
    out = tmp_path / "answers.csv"
    result = run("batch", str(scans), "-m", folder, *LENGTH, "--question", "What?", "--question", "Why?", "--out", str(out))
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith(f"wrote {out}: 10 rows of 5 records, 2 with an error; 10 in ")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = [("1.png", ""), ("2.png", ""), ("10.png", ""), ("report.pdf", "1"), ("report.pdf", "2")]
    assert [(row["file"], row["page"], row["question"]) for row in rows] == [(*at, q) for at in places for q in ("What?", "Why?")]
    assert [bool(row["error"]) for row in rows] == [row["file"] == "2.png" for row in rows]
    alone = json.loads(run("ask", "-m", folder, *LENGTH, "--json", str(scans / "10.png"), "Why?").out)
    assert rows[5]["answer"] == alone["text"]
    again = run("batch", str(scans), "-m", folder, *LENGTH, "--question", "What?", "--out", str(out))
    assert (again.code, again.err) == (2, f"minimonkey: {out} exists: name another file, or delete it\n")
    other = run("batch", str(scans), "-m", folder, *LENGTH, "--question", "What?", "--out", str(out), "--resume")
    was = "was begun with questions=['What?', 'Why?'], not ['What?']: go on with that, or name another file"
    assert (other.code, other.err) == (2, f"minimonkey: {out} {was}\n")


def test_pages_and_whole_documents(run, folder, scans, tmp_path):
    words = ("batch", str(scans / "report.pdf"), "-m", folder, *LENGTH, "--question", "What?", "-q")
    for options, pages in ((["--pages", "2"], [2]), (["--pages", "1-9"], [1, 2]), (["--whole"], [None])):
        out = tmp_path / f"{'-'.join(options)}.jsonl".replace("/", "")
        result = run(*words, *options, "--out", str(out))
        assert (result.code, result.out, result.err) == (0, "", "")
        assert [json.loads(line).get("page") for line in out.read_text().splitlines()] == pages


def test_fields(run, folder, scans, tmp_path):
    out, schema = tmp_path / "fields.jsonl", tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}))
    words = ("batch", str(scans), "-m", folder, "--max-new-tokens", "60", "-q")
    assert run(*words, "--schema", str(schema), "--out", str(out)).code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [type(row["ok"]) for row in rows] == [bool, type(None), bool, bool, bool]
    result = run("extract", "-m", folder, "--schema", str(schema), str(scans / "1.png"))
    assert result.code == 0
    assert json.loads(result.out) == {"ok": rows[0]["ok"]}
    assert result.err == f"least certain: ok ({rows[0]['confidence']:.2f})\n"


def test_extract_one_document(run, folder, scans):
    words = ("extract", "-m", folder, str(scans / "report.pdf"), "--fields", "ok:boolean, kind:a|b")
    both, second = (json.loads(run(*words, "--json", *options).out) for options in ((), ("--pages", "2")))
    assert both.keys() == {"fields", "confidence", "boxes", "text", "error", "tokens", "seconds"}
    assert both["fields"].keys() == both["confidence"].keys() == {"ok", "kind"}
    assert json.loads(both["text"]) == both["fields"]
    assert both["tokens"]["prompt"] > second["tokens"]["prompt"]
    cut = run(*words, "--max-new-tokens", "4")
    assert (cut.code, cut.out) == (2, "")
    assert cut.err == (
        "minimonkey: the answer doesn't fit its schema: it stops after 4 tokens; raise max_new_tokens (it begins with '{\"ok')\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch", "SCANS", "--out", "a.csv"], "no question: pictures bring none"),
        (["batch", "SCANS", "--question", "?", "--out", "a.xlsx"], "expected a name that ends in .jsonl, .csv, .parquet"),
        (["batch", "SCANS", "--question", "?", "--out", "/nowhere/a.csv"], "can't write /nowhere/a.csv: No such file"),
        (["batch", "SCANS", "--question", "?", "--out", "a.csv", "--resume"], "nothing to resume"),
        (["batch", "nothing", "--question", "?", "--out", "a.csv"], "can't read nothing: there is no such folder or file"),
        (["batch", "SCANS", "--question", "?", "--out", "a.csv", "--pages", "x"], "pages='x': expected numbers from 1"),
        (["batch", "SCANS", "--question", "?", "--out", "a.csv", "--compression", "scam"], "scam"),
        (["batch", "SCANS", "--fields", "a:x", "--out", "a.csv"], "no type 'x'"),
        (["batch", "SCANS", "--fields", "text", "--out", "a.csv"], "field 'text' is a column of the table already"),
        (["batch", "SCANS", "--fields", "a", "--compression", "scm", "--out", "a.csv"], "fields are read of whole pictures"),
        (["batch", "SCANS", "--fields", "a", "--question", "?", "--question", "!", "--out", "a.csv"], "ask one question of each"),
        (["batch", "SCANS", "--fields", "a", "--schema", "s.json", "--out", "a.csv"], "--schema and --fields say the same"),
        (["extract", "SCANS/1.png"], "nothing to read: give --fields"),
        (["extract", "SCANS/1.png", "--schema", "gone.json"], "can't read gone.json: No such file or directory"),
        (["extract", "SCANS/1.png", "--schema", "SCANS/2.png"], "is no JSON"),
        (["extract", "What?", "--fields", "a"], "'What?' is no picture"),
        (["extract", "SCANS/1.png", "--fields", "a:[b"], "no type 'b'"),
    ],
)
def test_one_line(run, scans, tmp_path, monkeypatch, words, message):
    """Before any model is loaded."""
    monkeypatch.setattr("minimonkey.inference.load", None)
    monkeypatch.setattr("minimonkey.jobs.answers.load", None)
    monkeypatch.chdir(tmp_path)
    result = run(*(word.replace("SCANS", str(scans)) for word in words))
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert not list(tmp_path.glob("a.csv*"))


def test_too_many_errors(run, folder, scans, tmp_path):
    words = ("batch", str(scans), "-m", folder, *LENGTH, "--question", "What?", "--out", str(tmp_path / "a.csv"))
    result = run(*words, "--max-errors", "0")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "more than max_errors=0" in result.err and "2.png" in result.err
    assert run(*words, "--resume").code == 0
