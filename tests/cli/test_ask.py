"""`minimonkey ask` from the words of the command line to the answer of a tiny random model."""

import io
import json
import re
import types
from pathlib import Path

import pytest
from PIL import Image

from minimonkey.pyramid import PyramidSpec, Size


@pytest.fixture
def folder(tiny_model, tiny_processor, tmp_path):
    """A model folder on disk: tiny, random, with the published budgets."""
    path = tmp_path / "model"
    tiny_model(pyramid=None).save_pretrained(path)
    tiny_processor(detail=(1, 4), adaptive=None).save_pretrained(path)
    return str(path)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "page.png"
    Image.linear_gradient("L").resize((90, 60)).save(path)
    return str(path)


def with_stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))


def test_answer_and_summary(run, folder, picture):
    result = run("ask", "--model", folder, "--max-new-tokens", "4", picture, "What?")
    planned = PyramidSpec(tile_px=28, detail=(1, 4), adaptive=None).plan(Size(60, 90))
    detail, _, thumbnail = planned.level_tiles
    assert result.code == 0
    assert result.out.endswith("\n")
    assert re.fullmatch(
        rf"{planned.tile_count} tiles \({detail} detail \+ {thumbnail} thumbnail\), {4 * planned.tile_count} image tokens; "
        r"[0-4] new tokens, the first after \d+\.\d\d s, the last after \d+\.\d\d s; loading took \d+\.\d\d s\n",
        result.err,
    )


def test_streamed_text_is_the_text_of_json(run, folder, picture):
    words = ("ask", "-m", folder, "--max-new-tokens", "6", picture, "What?")
    streamed, whole = run(*words, "--quiet"), run(*words, "--json")
    answer = json.loads(whole.out)
    assert (streamed.code, whole.code) == (0, 0)
    assert streamed.err == whole.err == ""
    assert streamed.out == answer["text"] + "\n"
    assert set(answer) == {"text", "boxes", "mean_logprob", "tokens", "seconds", "pyramids"}
    assert answer["tokens"]["image"] == 4 * answer["pyramids"][0]["tiles"]
    assert answer["tokens"]["new"] <= 6
    assert list(answer["seconds"])[0] == "load"
    assert answer["pyramids"][0]["source"] == {"height": 60, "width": 90}


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ([], PyramidSpec(28, (1, 4), None)),
        (["--pyramid", "2-6/1-3"], PyramidSpec(28, (2, 6), (1, 3))),
        (["--pyramid", "2-6/1-3", "--no-pyramid"], PyramidSpec(28, (2, 6), None)),
        (["--pyramid", "3-5"], PyramidSpec(28, (3, 5), None)),
    ],
)
def test_pyramid_options(run, folder, picture, options, spec):
    answer = json.loads(run("ask", "-m", folder, "--max-new-tokens", "1", "--json", *options, picture, "What?").out)
    levels = {level.name: level.grid._asdict() for level in spec.plan(Size(60, 90)).levels}
    assert answer["pyramids"][0]["levels"] == levels


def test_picture_from_standard_input(run, folder, picture, monkeypatch):
    words = ("ask", "-m", folder, "--max-new-tokens", "3", "--quiet")
    from_file = run(*words, picture, "What?")
    with_stdin(monkeypatch, Path(picture).read_bytes())
    assert run(*words, "-", "What?") == from_file


def test_several_pictures_and_none(run, folder, picture):
    words = ("ask", "-m", folder, "--max-new-tokens", "1", "--json")
    assert len(json.loads(run(*words, picture, picture, "Same?").out)["pyramids"]) == 2
    assert json.loads(run(*words, "Hello?").out)["tokens"]["image"] == 0


def test_system_message_counts(run, folder, picture):
    words = ("ask", "-m", folder, "--max-new-tokens", "1", "--json", picture, "What?")
    plain, told = json.loads(run(*words).out), json.loads(run(*words, "--system", "Be brief.").out)
    assert told["tokens"]["prompt"] > plain["tokens"]["prompt"]


def test_notes_on_a_picture_go_to_standard_error(run, folder, tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    result = run("ask", "-m", folder, "--max-new-tokens", "1", "-q", str(tmp_path / "two.gif"), "What?")
    assert result.code == 0
    assert result.err == f"minimonkey: {tmp_path / 'two.gif'}: a GIF file of 2 pictures, of which the first is used\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{picture}"], "is a picture without a question"),
        (["{picture}", "{picture}"], "is a picture without a question"),
        (["gone.jpg"], "gone.jpg is a picture without a question"),
        (["-"], "- is a picture without a question"),
        (["{picture}", " "], "the question is empty"),
        (["-", "-", "Same?"], "standard input (-) holds one picture"),
        (["no-such.png", "What?"], "no-such.png"),
        (["{folder}", "What?"], "{folder}"),
        (["{picture}", "<image><image> What?"], "image"),
        (["--pyramid", "0-4", "{picture}", "What?"], "0"),
        (["--pyramid", "many", "{picture}", "What?"], "4-12/3-7"),
        (["--device", "abacus", "{picture}", "What?"], "abacus"),
        (["--dtype", "float3", "{picture}", "What?"], "float3"),
        (["--max-new-tokens", "999999", "{picture}", "What?"], "max_new_tokens"),
        (["--model", "/no/such/folder", "{picture}", "What?"], "/no/such/folder"),
        (["--model", "{picture}", "{picture}", "What?"], "{picture}"),
        (["--model", "{empty}", "{picture}", "What?"], "config.json"),
    ],
)
def test_bad_input_is_one_line(run, folder, picture, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    names = {"picture": picture, "folder": folder, "empty": str(tmp_path / "empty")}
    result = run("ask", "--model", folder, *(word.format(**names) for word in words))
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("minimonkey: ")
    assert result.err.count("\n") == 1
    assert message.format(**names) in result.err


def test_a_closed_standard_input_is_one_line(run, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    result = run("ask", "-m", folder, "-", "What?")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "standard input (-) is closed" in result.err


def test_a_long_question_is_no_file_name(run, folder):
    result = run("ask", "-m", folder, "Why? " * 2000)
    assert result.code == 2
    assert "the prompt has" in result.err


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n cut"])
def test_bad_bytes_on_standard_input(run, folder, monkeypatch, content):
    with_stdin(monkeypatch, content)
    result = run("ask", "-m", folder, "-", "What?")
    assert result.code == 2
    assert result.err.startswith("minimonkey: ")
    assert result.err.count("\n") == 1
