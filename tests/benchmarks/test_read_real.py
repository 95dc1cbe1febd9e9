"""Benchmarks of reading: the real print is frozen, Tesseract is asked as they say, and their tables count right."""

import hashlib
import io
import json
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import minimonkey
from minimonkey.errors import UsageError
from minimonkey.pyramid import PyramidSpec, Size
from minimonkey.synthetic.material.words import ALPHABET

ROOT = Path(__file__).parents[2]
REAL = ROOT / "benchmarks" / "held_out" / "real.zip"
PAGES = REAL.with_name("pages.zip")


@pytest.fixture
def module(monkeypatch):
    """Import a file of benchmarks/ or benchmarks/held_out/ as Python does that runs one."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "held_out")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module


@pytest.fixture
def program(monkeypatch, tmp_path):
    """A program named tesseract, the only one that is found: keeps its words, threads and input, then does as told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(script: str) -> Path:
        path = folder / "tesseract"
        keep = f'printf %s "$* $OMP_THREAD_LIMIT" > {tmp_path}/words\n[ "$1" = - ] && /bin/cat > {tmp_path}/input\n'
        path.write_text(f"#!/bin/sh\n{keep}{script}\n")
        path.chmod(0o755)
        return tmp_path

    return write


@pytest.fixture
def run(module, monkeypatch):
    """Run a benchmark with a model that gives the answers in turn, on pictures with these rows."""

    def call(name: str, rows: list[dict], answers: list[str], *words: str) -> int:
        pictures = [(Image.new("RGB", (60, 20), "white"), row) for row in rows]
        said = dict(zip([id(picture) for picture, _ in pictures], answers, strict=True))
        spec = PyramidSpec(tile_px=224)

        def batch(requests, pyramid, max_new_tokens):
            pyramids = [pyramid.plan(Size(20, 60))]
            return [SimpleNamespace(text=said[id(picture)], pyramids=pyramids) for picture, _ in requests]

        vlm = SimpleNamespace(processor=SimpleNamespace(image_processor=SimpleNamespace(spec=spec)), batch=batch)
        monkeypatch.setattr(minimonkey, "load", lambda model: vlm)
        monkeypatch.setattr(module("reader"), "held_out", lambda archive: pictures)
        monkeypatch.setattr(sys, "argv", [name, *words])
        return module("reader").exit_code(module(name).main)

    return call


def frozen(path: Path, sha256: str) -> tuple[list[dict], list[dict], set[tuple[int, int]]]:
    """Rows, sources and sizes of pictures in an archive that nobody has changed."""
    assert path.stat().st_size < 1_500_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    with zipfile.ZipFile(path) as archive:
        rows = [json.loads(row) for row in archive.read(f"{path.stem}.jsonl").decode().splitlines()]
        sources = [json.loads(row) for row in archive.read("sources.jsonl").decode().splitlines()]
        pictures = [Image.open(io.BytesIO(archive.read(row["image"]))) for row in rows]
    assert {picture.mode for picture in pictures} == {"L"}
    assert {row["document"] for row in rows} == {source["document"] for source in sources}
    return rows, sources, {picture.size for picture in pictures}


def test_real_print_is_frozen():
    rows, sources, _ = frozen(REAL, "6215d74760d9610d4921779ca95166ab604caa26087cbd6b18458feebc66809b")
    assert sum(row["kind"] == "line" for row in rows) == 199
    assert sum(row["kind"] == "region" for row in rows) == 54
    assert all(source["licence"] and source["holder"] and source["version"] for source in sources)
    assert {row["dpi"] for row in rows} == {75, 100, 150, 200}
    for row in rows:
        assert set(row["text"]) <= {*ALPHABET, "\n"}, row
        assert (1 if row["kind"] == "line" else 2) <= row["text"].count("\n") + 1 <= (1 if row["kind"] == "line" else 6)
        assert 3 < row["x_height_px"] < 40


def test_real_pages_are_frozen():
    rows, _, sizes = frozen(PAGES, "b5de7cb8c51ef65a7418bf1f53ef14df81b06a5ab4712ab4dccd074df513a321")
    assert len({(row["image"], row["question"]) for row in rows}) == len(rows) >= 50
    assert min(min(size) for size in sizes) > 200
    for row in rows:
        begin = " ".join(row["text"].split()[:2])
        assert row["question"] == f'Read the line that begins with "{begin}".' and set(row["text"]) <= set(ALPHABET)
        assert 3 < row["x_height_px"] < 40 and row["dpi"] == 100


def test_tesseract_is_asked_for_a_line_of_english_on_one_thread(module, program):
    kept = program("printf 'two  words\\n\\f'")
    assert module("reader").read_with_tesseract(Image.new("RGB", (31, 17)), 7) == "two words"
    assert (kept / "words").read_text() == "- - --psm 7 -l eng 1"
    with Image.open(kept / "input") as seen:
        assert (seen.format, seen.size) == ("PNG", (31, 17))


def test_what_tesseract_complains_of_is_said(module, program):
    program("echo 'Error opening data file eng.traineddata' >&2; exit 1")
    with pytest.raises(UsageError, match=r"^--tesseract: exit code 1 from 'tesseract - - .*: Error opening data file eng"):
        module("reader").read_with_tesseract(Image.new("RGB", (9, 9)), 6)


@pytest.mark.parametrize("name", ["read_lines", "read_real"])
def test_a_missing_tesseract_is_one_line_before_anything_is_read(run, monkeypatch, tmp_path, capsys, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(name, [], [], "--tesseract") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    said = printed.err.splitlines()[-1]  # torch may say something as it is imported
    assert said == "--tesseract: no program 'tesseract' found; apt-get install tesseract-ocr, or leave the option out"


def test_lines_by_height_of_ink_for_both_readers(run, program, capsys):
    program("echo abcX")
    rows = [{"text": "abcd", "ink_height_px": 9}, {"text": "abcdef", "ink_height_px": 12}]
    assert run("read_lines", rows, ["abcd", "abcdef"], "--tesseract", "--errors", "1") == 0
    printed = capsys.readouterr().out
    assert "abcX, --psm 7 -l eng\n" in printed  # the program's first line is its version
    assert "| lines | rows | CER, model | 95 % | CER, abcX | 95 % |" in printed
    assert "| all | 2 | 0.000 | 0.000-0.000 | 0.400 | 0.250-0.500 |" in printed
    assert "| ink 0-10 px high | 1 | 0.000 | 0.000-0.000 | 0.250 | 0.250-0.250 |" in printed
    assert "ink 15-20" not in printed
    assert "'abcd' -> 'abcd' | 'abcX'" in printed


@pytest.mark.parametrize(("answer", "words", "code"), [("ab", [], 1), ("abcd", [], 0), ("ab", ["--no-adaptive"], 0)])
def test_the_embedded_model_has_a_bar(run, capsys, answer, words, code):
    assert run("read_lines", [{"text": "abcd", "ink_height_px": 9}], [answer], *words) == code
    assert "| lines | rows | CER | 95 % |\n| --- | --- | --- | --- |\n" in capsys.readouterr().out


def test_real_print_by_kind_height_language_and_document(run, program, capsys):
    kept = program("printf 'eins\\n\\nzwei\\n'")
    row = {"kind": "line", "text": "eins", "x_height_px": 4.2, "language": "de", "document": "one"}
    region = {"kind": "region", "text": "eins\nzwei", "x_height_px": 7.0, "language": "en", "document": "two"}
    page = region | {"kind": "page", "question": "Read the line.", "text": "drei vier", "language": "de", "document": "one"}
    assert run("read_real", [row, region, page], ["ein", "eins\nzwei", "drei  vier"], "--tesseract") == 0
    printed, pages = capsys.readouterr().out.split("\n1 page")
    lines, regions = printed.split("\n1 region")
    assert "| x 0-5 px high | 1 | 0.250 | 0.250-0.250 | 1.250" in lines
    assert "| one | 1 | 0.250" in lines
    assert "in English" not in lines
    assert "| x 6-8 px high | 1 | 0.000 | 0.000-0.000 | 0.000" in regions
    assert "| in English | 1 | 0.000" in regions
    assert "\n1 answers are right to the character\n" in pages
    assert "| pages | rows | CER | 95 % |" in pages and "| x 6-8 px high | 1 | 0.000 | 0.000-0.000 |" in pages
    assert (kept / "words").read_text() == "- - --psm 6 -l eng 1", "no page"


def test_a_picture_is_asked_its_own_question(module):
    asked = []
    vlm = SimpleNamespace(batch=lambda requests, pyramid, max_new_tokens: asked.extend(requests) or requests)
    assert module("reader").read(vlm, "abc", None, 2, 9, ["1", "2", "3"]) == [("a", "1"), ("b", "2"), ("c", "3")] == asked
    assert module("reader").read(vlm, "a", None, 2, 9) == [("a", "Read the text.")]


def line_of(module, *words: str, gap: float = 3.0, cells: tuple[float, ...] = ()):
    """Words of 20 points, side by side, as make_real.py has them."""
    make = module("make_real")
    cells = cells or (10.0,) * len(words)
    places = [(word, index * (20 + gap), cell) for index, (word, cell) in enumerate(zip(words, cells, strict=True))]
    return make.Line(tuple(make.Word(word, make.Box(left, 0, left + 20, cell)) for word, left, cell in places), 1, 1)


@pytest.mark.parametrize(
    ("words", "setting", "taken"),
    [
        (("The", "total"), {}, True),
        (("ab",), {}, False),
        (("The", "∑"), {}, False),
        (("Contents", ". . . . 3"), {}, False),
        (("=+", "<>", "a"), {}, False),
        (("README", "."), {"gap": 1.0}, False),
        (("note", "2"), {"cells": (10.0, 6.0)}, False),
    ],
)
def test_only_plain_text_is_taken(module, words, setting, taken):
    assert line_of(module, *words, **setting).is_text() is taken


def test_lines_side_by_side_are_not_asked_for(module):
    """Of a table or of columns nobody could say which of them "the line" is."""
    make = module("make_real")

    def at(top: float, bottom: float):
        return make.Line((make.Word("The", make.Box(0, top, 20, bottom)),), 1, 1)

    line = at(10, 20)
    assert not make._beside(line, [at(0, 11), line, at(19, 29)])
    assert make._beside(line, [at(0, 14), line])


def page_of(*strokes: tuple[int, int, int, int]) -> np.ndarray:
    """A grey page of 80 x 60 pixels with black outlines (left, top, right, bottom; the last of each is outside)."""
    page = np.full((60, 80), 230, np.uint8)
    for left, top, right, bottom in strokes:
        page[top:bottom, left:right] = 0
        page[top + 1 : bottom - 1, left + 1 : right - 1] = 230
    return page


def test_a_crop_is_as_wide_as_its_margin_unless_other_print_is_near(module):
    make = module("make_real")
    line, box = (20, 24, 60, 34), make.Box(20, 22, 60, 36)
    assert make.frame(page_of(line), box, 14, 5) == (15, 19, 65, 39)
    assert make.frame(page_of(line, (20, 12, 60, 21)), box, 14, 5) == (15, 21, 65, 39)
    assert make.frame(page_of(line, (0, 30, 20, 31)), box, 14, 5) is None  # ink joins it on the left
    assert make.frame(page_of(line, (30, 10, 40, 24)), box, 14, 5) is None  # and from above


def test_a_rule_between_words_is_seen(module):
    """TeX draws "_" so in its older typefaces; pdftotext says that there is a space."""
    make, line = module("make_real"), line_of(module, "ann", "feats", gap=6.0)
    ruled = make.Cutter._ruled
    assert ruled([line], page_of((0, 2, 20, 8), (26, 2, 46, 8)), 72) is False
    assert ruled([line], page_of((0, 2, 20, 8), (26, 2, 46, 8), (20, 9, 26, 10)), 72) is True


def test_the_height_of_an_x_is_measured_on_words_without_ascenders(module):
    make, page = module("make_real"), page_of((0, 12, 80, 28))
    heights = make.x_heights([line_of(module, "can", "Total")], lambda number, dpi: page)
    assert heights == {10.0: 4.0}  # 16 pixels of 288 dpi
