"""`minimonkey data synthetic` with documents: sheets, and questions as JSON lines. Mere text is tried in test_rooms.py."""

import json

import pytest
from PIL import Image

from minimonkey.cli.data import Kind
from minimonkey.data.synthetic import document
from tests.data.conftest import make_small


@pytest.fixture
def small(monkeypatch):
    """Documents that need no fonts, small enough to be quick."""
    monkeypatch.setattr(document, "make_document", make_small)


def test_every_kind_of_document_can_be_asked_for():
    assert [kind.value for kind in Kind] == ["line", "region", "tile", "document", *document.KINDS]


def test_questions_are_json_lines(run, small, tmp_path):
    sheet = tmp_path / "sheet.png"
    words = ("data", "synthetic", "--kind", "receipt", "--count", "2", "--seed", "4", "--contact-sheet", str(sheet))
    result = run(*words, "--questions")
    assert (result.code, result.err) == (0, f"wrote {sheet}\n")
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
    for name, options in (("a.png", ()), ("b.png", ("--dots",)), ("c.png", ("--held-out",))):
        result = run("data", "synthetic", "--kind", "document", "--count", "3", "--contact-sheet", str(tmp_path / name), *options)
        assert (result.code, result.out) == (0, f"wrote {tmp_path / name}\n")
        with Image.open(tmp_path / name) as sheet:
            sheets.append(sheet.convert("RGB").tobytes())
            assert sheet.width == 8 + 4 * 448
    assert len(set(sheets)) == 3


def test_questions_of_mere_text(run, tmp_path):
    result = run("data", "synthetic", "--kind", "tile", "--questions", "--contact-sheet", str(tmp_path / "a.png"))
    assert result.code == 2
    assert result.err == "minimonkey: --questions is for documents, but --kind is tile; try --kind document\n"
