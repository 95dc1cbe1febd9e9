"""The benchmark of documents asks each question of the open picture, and counts right answers as right."""

import dataclasses
import json
import re
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from minimonkey.errors import DataError, UsageError
from minimonkey.inference.answer import boxes_of
from minimonkey.pyramid import Box, PyramidSpec, Size
from minimonkey.synthetic.document import make_document
from minimonkey.synthetic.held_out import digests
from minimonkey.synthetic.material import typefaces, words

TEXT = "".join(f"\n{a}{b}{c}" for a in "bdglmnprst" for b in "aeiou" for c in "lnrst") + "\n"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return import_module("read_documents")


@pytest.fixture(scope="module")
def document():
    vocabulary = words.Vocabulary((TEXT.encode(),), (1.0,), "train")
    return make_document(5, "receipt", split="train", size_px=(20, 20), typefaces=[typefaces.PILLOW], words=vocabulary)


class Knowing:
    """A model that answers what is wanted, as the library shows it: marks of places are boxes, and not in the text."""

    def __init__(self, document, spec):
        self.document, self.processor = document, SimpleNamespace(image_processor=SimpleNamespace(spec=spec))
        self.pyramids = []

    @contextmanager
    def open(self, picture, pyramid):
        self.pyramids.append(pyramid)
        size = Size(picture.height, picture.width)
        wanted = {question.text: question.answer for question in self.document.questions}

        def answer(question):
            return SimpleNamespace(text=re.sub("</?(ref|box)>", "", wanted[question]), boxes=boxes_of(wanted[question], size))

        yield SimpleNamespace(ask_many=lambda questions, max_new_tokens: [answer(question) for question in questions])


@pytest.mark.parametrize("plain", [False, True])
def test_who_knows_everything_misses_nothing(benchmark, document, plain):
    spec = PyramidSpec(tile_px=224, detail=(4, 12), adaptive=(3, 7), fit="pad", max_upscale=1.5)
    model = Knowing(document, spec)
    (rows,) = benchmark.readings(model, iter([document]), plain)
    assert [row.question for row in rows] == [question.text for question in document.questions]
    assert {row.kind for row in rows} >= {"where", "field"}
    assert all(benchmark.overlap(row) == 1 for row in rows if row.kind == "where")
    assert all(benchmark.edits(row)[0] == 0 for row in rows if row.kind in ("line", "region", "field"))
    planned = spec.plan(rows[0].size)
    assert model.pyramids == [benchmark.same_tiles(spec, planned) if plain else spec]
    scale = planned.detail.content.bottom - planned.detail.content.top
    heights = [line.x_height_px * scale / document.picture.height for line in document.lines]
    assert all(min(heights) <= row.x_height_px <= max(heights) for row in rows)


def test_an_interrupted_run_goes_on(benchmark, document, monkeypatch, tmp_path, capsys):
    """What an earlier run has answered isn't asked again; the document that it was interrupted in is."""
    spec = PyramidSpec(tile_px=224, detail=(4, 12), adaptive=(3, 7), fit="pad", max_upscale=1.5)
    file, model = tmp_path / "readings.jsonl", Knowing(document, spec)
    monkeypatch.setattr(benchmark.minimonkey, "load", lambda _: model)
    monkeypatch.setattr(benchmark, "reader_of", lambda vlm, plain: {"weights": "a", "plain": plain, "sizes": (1, 2)})
    monkeypatch.setattr(benchmark, "held_out_documents", lambda count: iter([document] * count))
    monkeypatch.setattr(benchmark, "frozen", iter)

    def run(*options: str) -> str:
        monkeypatch.setattr("sys.argv", ["read_documents.py", "--model", "x", "--json", str(file), *options])
        assert benchmark.main() == 0
        return capsys.readouterr().out.split("\n\n", 1)[1]

    whole = run("--count", "4")
    text = file.read_text()
    assert len(model.pyramids) == 4 and len(text.splitlines()) == 1 + 4
    file.write_text(text[: int(0.6 * len(text))])  # in the midst of the third document
    assert run("--count", "4") == whole and file.read_text() == text
    assert len(model.pyramids) == 4 + 2
    assert run("--count", "2") == run("--count", "2") != whole
    assert len(model.pyramids) == 4 + 2 and file.read_text() == text
    with pytest.raises(UsageError, match="the readings of other weights, or of another cut; name another file"):
        run("--plain")
    twice = text.splitlines()[4]  # as two runs at once would leave it
    for wrong in ("{}", "[{}]", "[3]", "3", "[", twice):
        file.write_text(f"{text}{wrong}\n")
        with pytest.raises(UsageError, match="line 6 isn't what this benchmark writes; name another file"):
            run()
        assert file.read_text() == f"{text}{wrong}\n", "it is left as it is"
    for other in (b"Dear Sir,\n", b"\xff\xfe\n"):
        file.write_bytes(other)
        with pytest.raises(UsageError, match="line 1 isn't what this benchmark writes"):
            run()
        assert file.read_bytes() == other
    with pytest.raises(UsageError, match="--json .*: Not a directory"):
        run("--json", str(file / "readings.jsonl"))


def test_half_a_box_is_half_an_overlap(benchmark):
    fields = {"kind": "where", "question": "?", "wanted": "<box>[[0, 0, 500, 1000]]</box>", "said": "", "document": "form"}
    boxes = [Box(0, 0, 25, 200), Box(0, 0, 50, 200)]
    row = benchmark.Reading(**fields, lines=5, x_height_px=9.0, size=Size(200, 100), boxes=boxes, number=0)
    assert benchmark.overlap(row) == 0.5, "the first box that was said counts"
    assert benchmark.overlap(row._replace(boxes=[])) == 0
    assert benchmark.overlap(row._replace(boxes=[Box(60, 0, 90, 200)])) == 0


def test_documents_are_resampled_not_questions(benchmark):
    fields = {"kind": "line", "question": "?", "wanted": "abcd", "document": "form", "lines": 5, "x_height_px": 9.0}
    fields |= {"size": Size(9, 9), "boxes": []}
    rows = [benchmark.Reading(**fields, said=said, number=number) for number, said in ((0, "abcd"), (0, "abcd"), (1, "abxx"))]
    figure, low, high = benchmark.figure_of(benchmark.BARS[0], rows)
    assert (figure, low, high) == (2 / 12, 0, 0.5), "either document may be drawn twice"
    sizes = benchmark.by_size([*rows, rows[2]._replace(x_height_px=20.0)]).splitlines()
    assert sizes[2] == "| single lines, CER | - | - | - | - | 0.167 (3) | 0.500 (1) |"


def test_finding_reading_and_ending_are_told_apart(benchmark):
    fields = {"kind": "line", "question": "?", "wanted": "abcdefgh", "document": "form", "lines": 5, "x_height_px": 9.0}
    fields |= {"size": Size(9, 9), "boxes": [], "number": 0}
    rows = [benchmark.Reading(**fields, said=said) for said in ("abcdefgh", "abcdefghabcdefgh", "abcdxxxx", "abxx")]
    hidden = rows[0]._replace(x_height_px=4.0, said=""), rows[0]._replace(kind="where", said="")
    table = benchmark.by_kind([*rows, *hidden, rows[0]._replace(kind="field")]).splitlines()
    assert table[2:] == ["| field | 1 | 1.00 | 1.00 | 1.00 | 0.000 |", "| line | 4 | 0.25 | 0.75 | 1.12 | 0.312 |"]


def test_other_documents_than_the_frozen_ones_are_refused(benchmark, document, monkeypatch, tmp_path):
    golden = {"first": list(digests([document])), "count": 2, "sha256": list(digests([document, document]))[-1], "made_with": {}}
    (tmp_path / "frozen.json").write_text(json.dumps(golden))
    monkeypatch.setattr(benchmark, "FROZEN", tmp_path / "frozen.json")
    assert list(benchmark.frozen(iter([document, document]))) == [document, document]
    other = dataclasses.replace(document, questions=document.questions[1:])
    for wrong in ([other], [document, other]):
        with pytest.raises(DataError, match=f"document {len(wrong) - 1} isn't the frozen one"):
            list(benchmark.frozen(iter(wrong)))
