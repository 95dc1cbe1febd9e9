"""`minimonkey data synthetic` with documents: sheets, and questions as JSON lines. Mere text is tried in test_rooms.py."""

import json

import pytest
from PIL import Image

from minimonkey.cli.data import synthetic
from minimonkey.cli.data.synthetic import TEXTS, Kind
from minimonkey.synthetic import document
from minimonkey.synthetic.material import choice as material
from minimonkey.synthetic.rendering import lines
from tests.synthetic.conftest import make_small


@pytest.fixture
def small(monkeypatch):
    """Documents that need no fonts, small enough to be quick."""
    monkeypatch.setattr(document, "make_document", make_small)


def test_every_kind_of_document_can_be_asked_for():
    assert [kind.value for kind in Kind] == [*lines.KINDS, "document", *document.KINDS]
    assert tuple(kind.value for kind in TEXTS) == lines.KINDS


def test_questions_are_json_lines(run, small, tmp_path):
    sheet = tmp_path / "sheet.png"
    words = ("data", "synthetic", "--kind", "receipt", "--count", "2", "--seed", "4", "--contact-sheet", str(sheet))
    result = run(*words, "--questions")
    assert (result.code, result.err) == (0, f"wrote {sheet}\n{material.summary('train')}\n")
    said = [json.loads(line) for line in result.out.splitlines()]
    made = make_small(5, "receipt", split="train")
    assert [each["seed"] for each in said] == [4, 5]
    assert (said[1]["width"], said[1]["height"]) == made.picture.size
    assert (said[1]["kind"], said[1]["text"]) == ("receipt", made.text)
    first = made.questions[0]
    assert said[1]["questions"][0] == {"question": first.text, "answer": first.answer, "kind": first.kind}
    assert len(said[1]["questions"]) == len(made.questions)


def test_document_sheet(run, small, tmp_path):
    sheets = []
    for name, *options in (("a.png",), ("b.png", "--dots"), ("c.png", "--held-out")):
        result = run("data", "synthetic", "--kind", "document", "--count", "3", "--contact-sheet", str(tmp_path / name), *options)
        made_of = material.summary("held_out" if options == ["--held-out"] else "train")
        assert (result.code, result.out) == (0, f"wrote {tmp_path / name}\n{made_of}\n")
        with Image.open(tmp_path / name) as sheet:
            sheets.append(sheet.convert("RGB").tobytes())
            assert sheet.width == 8 + 4 * 448
    assert len(set(sheets)) == 3


def test_a_sheet_that_is_too_large_is_one_line(run, small, tmp_path, monkeypatch):
    words = ("data", "synthetic", "--kind", "receipt", "--contact-sheet")
    result = run(*words, str(tmp_path / "a.png"), "--count", "201")
    assert result.code == 2
    assert result.err == "minimonkey: --count is 201: a sheet holds 200 documents at most; see others with --seed\n"
    monkeypatch.setitem(synthetic.TALLEST, ".webp", 100)
    result = run(*words, str(tmp_path / "a.webp"), "--count", "1")
    assert result.code == 2 and not list(tmp_path.iterdir())
    assert "pixels high, .webp holds 100; try a.png or a lower --count" in result.err and result.err.count("\n") == 1


def test_questions_of_mere_text(run, tmp_path):
    result = run("data", "synthetic", "--kind", "tile", "--questions", "--contact-sheet", str(tmp_path / "a.png"))
    assert result.code == 2
    assert result.err == "minimonkey: --questions is for documents, but --kind is tile; try --kind document\n"


def test_packages_are_named_as_apt_takes_them(run):
    """apt-get install $(minimonkey data packages)"""
    result = run("data", "packages")
    assert (result.code, result.err) == (0, "")
    assert result.out == " ".join(material.packages()) + "\n"


def test_rows_from_drawing_to_looking(run, tmp_path):
    """synthetic --out, check, stats, show, convert."""
    folder = tmp_path / "documents"
    result = run("data", "synthetic", "--count", "2", "--kind", "form", "--out", str(folder))
    assert (result.code, result.out.splitlines()[0].split(":")[0]) == (0, f"wrote {folder / 'rows.jsonl'}")
    file, images = str(folder / "rows.jsonl"), ("--images", str(folder / "images"))
    result = run("data", "check", file, *images, "--max-tokens", "8000")
    assert (result.code, result.out) == (0, "2 rows are fit to train on, 0 are not; 2 pictures and videos were read\n")
    result = run("data", "stats", file, *images, "--out", str(tmp_path / "stats.png"))
    assert result.code == 0
    assert result.out.startswith("2 rows\n\ntokens a row: ")
    assert (tmp_path / "stats.png").stat().st_size > 1000
    result = run("data", "show", file, "2", *images, "-o", str(tmp_path / "row.png"))
    assert (result.code, result.out) == (0, f"wrote {tmp_path / 'row.png'}\n")
    result = run("data", "show", file, "3", *images, "-o", str(tmp_path / "row.png"))
    assert (result.code, result.err) == (2, f"minimonkey: {file} has fewer than 3 rows\n")
    result = run("data", "convert", file, str(tmp_path / "rows.json"), *images, "--form", "messages")
    assert (result.code, result.out) == (0, f"wrote {tmp_path / 'rows.json'}: 2 rows\n")


def test_check_reports_all_and_exits_with_2(run, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{broken\n{"conversations": [{"from": "human", "value": "Q"}]}\n')
    result = run("data", "check", str(file))
    assert result.code == 2
    assert "1 row: no JSON" in result.out
    assert "1 row: no answer" in result.out
    assert "0 rows are fit to train on, 2 are not" in result.out


def test_synthetic_wants_one_place_to_write_to(run, tmp_path):
    result = run("data", "synthetic", "--count", "2")
    assert (result.code, "name where the samples go" in result.err) == (2, True)
    result = run("data", "synthetic", "--kind", "line", "--out", str(tmp_path / "a"))
    assert (result.code, "try --kind document" in result.err) == (2, True)


def test_check_of_a_mixture_says_what_is_missing(run):
    result = run("data", "check", "recipes/data/mini-monkey.yaml")
    assert result.code == 2
    assert "OpenGVLab/InternVL-Chat-V1-2-SFT-Data" in result.out
