"""What a tiny model answers about many pictures is what it says of each alone; what fails is one row."""

import json

import pytest

from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import PromptError, ShortOfMemoryError, UsageError
from minimonkey.inference import VisionLanguageModel
from minimonkey.inference.extract import Fields
from minimonkey.jobs.answers import Answers, Asker
from minimonkey.jobs.job import run_job
from minimonkey.jobs.sources import Source

LENGTH = {"max_new_tokens": 4}


@pytest.fixture
def vlm(tiny_model, tiny_processor):
    return VisionLanguageModel(tiny_model(), tiny_processor(detail=(1, 4), adaptive=None))


def rows_of(asker, source, done=0):
    """The rows of one window, in order."""
    found = dict(asker(list(source), done))
    return [found[index] for index in sorted(found)]


@pytest.fixture
def few(pictures):
    """Six pictures of other sizes, one of them broken."""
    for path in sorted(pictures.rglob("*.png"))[6:]:
        path.unlink()
    (pictures / "1.png").write_bytes(b"no picture")
    return pictures


@pytest.mark.parametrize("questions", [["What is it?"], ["What?", "Where is it, and why?", "When?"]])
def test_as_if_each_were_asked_alone(vlm, few, questions):
    rows = rows_of(Asker(vlm, **LENGTH), Source(few, questions))
    assert len(rows) == 6 * len(questions)
    for row in rows:
        if row["file"] == "1.png":
            assert (row["answer"], row["mean_logprob"]) == (None, None)
            assert "is not a picture that can be read" in row["error"]
            continue
        alone = vlm.ask(few / row["file"], row["question"], **LENGTH)
        assert (row["answer"], row["error"]) == (alone.text, None)
        assert row["mean_logprob"] == pytest.approx(alone.mean_logprob, abs=1e-3)
    assert [row["question"] for row in rows] == questions * 6


def test_a_picture_is_encoded_once_for_all_its_questions(vlm, few, monkeypatch):
    encoded = []
    original = vlm.backend.encode
    monkeypatch.setattr(vlm.backend, "encode", lambda tiles, **more: encoded.append(len(tiles)) or original(tiles, **more))
    rows_of(Asker(vlm, **LENGTH), Source(few, ["What?", "Why?", "Who?"]))
    assert len(encoded) == 5, "one of six is broken"


def test_lines_about_one_picture_share_it(vlm, few, tmp_path, monkeypatch):
    """Three lines of JSONL about the same picture are as three questions about it."""
    table = tmp_path / "q.jsonl"
    one, other = (str(path) for path in sorted(few.rglob("*.png"))[-2:])
    lines = [{"image": one, "question": f"{number}?"} for number in range(3)] + [{"image": other, "question": "?"}]
    table.write_text("\n".join(map(json.dumps, [lines[0], lines[3], *lines[1:3]])))
    opened = []
    original = vlm.open
    monkeypatch.setattr(vlm, "open", lambda *given, **more: opened.append(1) or original(*given, **more))
    rows = rows_of(Asker(vlm, **LENGTH), Source(table))
    assert [row["question"] for row in rows] == ["0?", "?", "1?", "2?"]
    assert len(opened) == 1
    assert [row["answer"] for row in rows] == [vlm.ask(row["image"], row["question"], **LENGTH).text for row in rows]


def test_rows_that_are_done_are_not_made_again(vlm, few, monkeypatch):
    source = Source(few, ["What?", "Why?"])
    whole = rows_of(Asker(vlm, **LENGTH), source)
    later = dict(Asker(vlm, **LENGTH)(list(source), 5))
    assert {index: later[index] for index in later if index >= 5} == dict(list(enumerate(whole))[5:])
    monkeypatch.setattr(vlm.backend, "write", None)
    assert {index for index, _ in Asker(vlm, **LENGTH)(list(source), 12)} <= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}


def test_selectors_that_ask_the_question(vlm, few):
    """A picture can't be opened before there is a question."""
    spec = CompressionSpec("scm", 0.5)
    rows = rows_of(Asker(vlm, compression=spec, **LENGTH), Source(few, ["What?", "Why?"]))
    alone = [vlm.ask(few / row["file"], row["question"], compression=spec, **LENGTH).text for row in rows if not row["error"]]
    assert [row["answer"] for row in rows if not row["error"]] == alone


def test_memory_that_runs_out_halves_the_batch(vlm, few, monkeypatch, capsys):
    asked, original = [], vlm.batch

    def batch(rows, **settings):
        asked.append(len(rows))
        if len(rows) > 2:
            raise ShortOfMemoryError("out of memory while answering: ask less")
        return original(rows, **settings)

    expected = rows_of(Asker(vlm, **LENGTH), Source(few, ["What?"]))
    monkeypatch.setattr(vlm, "batch", batch)
    asker = Asker(vlm, **LENGTH)
    assert [row["answer"] for row in rows_of(asker, Source(few, ["What?"]))] == [row["answer"] for row in expected]
    assert asked == [5, 2, 3, 1, 2]
    assert asker.at_once == 1
    assert "minimonkey: out of memory while answering: ask less; from now on 2 at once\n" in capsys.readouterr().err


def test_one_question_that_is_too_long(vlm, few, monkeypatch):
    def too_long(rows, **settings):
        if any("long" in question for _, question in rows):
            raise PromptError("the prompt is too long")
        return original(rows, **settings)

    original = vlm.batch
    monkeypatch.setattr(vlm, "batch", too_long)
    source = Source(few, ["What?", "long " * 2000])
    rows = rows_of(Asker(vlm, **LENGTH), source)
    assert [row["error"] for row in rows if row["file"] != "1.png"] == [None, "the prompt is too long"] * 5


def test_memory_for_not_even_one(vlm, few, monkeypatch):
    def none(*_, **__):
        raise ShortOfMemoryError("out of memory")

    monkeypatch.setattr(vlm, "batch", none)
    monkeypatch.setattr(vlm, "open", none)
    rows = rows_of(Asker(vlm, **LENGTH), Source(few, ["What?", "Why?"]))
    assert [row["error"] for row in rows if row["file"] != "1.png"] == ["out of memory"] * 10


def test_a_wrong_setting_ends_the_job(vlm, few):
    with pytest.raises(UsageError, match="no_such_setting"):
        rows_of(Asker(vlm, no_such_setting=1), Source(few, ["What?"]))
    with pytest.raises(UsageError, match="max_new_tokens=0"):
        rows_of(Asker(vlm, max_new_tokens=0), Source(few, ["What?", "Why?"]))


def test_fields_are_columns(vlm, few):
    fields = Fields.of("total:number, ok:boolean")
    rows = rows_of(Asker(vlm, fields, max_new_tokens=100), Source(few, must_ask=False))
    broken, *others = sorted(rows, key=lambda row: row["file"] != "1.png")
    assert broken | {"error": ""} == {"file": "1.png", "total": None, "ok": None, "confidence": None, "text": None, "error": ""}
    for row in others:
        found = vlm.extractions([few / row["file"]], fields, max_new_tokens=100)[0]
        assert row == {"file": row["file"], **found.data, "confidence": found.lowest_confidence, "text": found.text, "error": None}
    cut = rows_of(Asker(vlm, fields, max_new_tokens=3), Source(few, must_ask=False))
    assert {row["error"] for row in cut if row["file"] != "1.png"} == {
        "the answer doesn't fit its schema: it stops after 3 tokens; raise max_new_tokens"
    }
    assert {row["text"] for row in cut} == {'{"t', None}
    with pytest.raises(UsageError, match="field 'error' is a column"):
        Asker(vlm, Fields.of("error"))


def test_a_job_from_a_folder_on_disk(vlm, few, tmp_path):
    """The work is loaded where it runs; two processes say what one says."""
    folder = tmp_path / "model"
    vlm.model.config.pyramid = None
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    work = Answers(str(folder), max_new_tokens=4)
    work.check()
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    run_job(Source(few, ["What?", "Why?"]), work, here)
    run_job(Source(few, ["What?", "Why?"]), work, there, workers=2)
    rows = [json.loads(line) for line in here.read_text().splitlines()]
    assert [json.loads(line) for line in there.read_text().splitlines()] == rows
    assert [row["answer"] for row in rows if not row["error"]] == [
        vlm.ask(few / row["file"], row["question"], **LENGTH).text for row in rows if not row["error"]
    ]
