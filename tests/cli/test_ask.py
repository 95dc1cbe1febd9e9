"""`minimonkey ask` from the words of the command line to the answer of a tiny random model."""

import io
import json
import re
import shutil
import types
from pathlib import Path

import pytest
from PIL import Image

from minimonkey.cli.ask import draw_answer
from minimonkey.documents import pictures
from minimonkey.inference.answer import labels_of
from minimonkey.pyramid import Box, PyramidSpec, Size
from minimonkey.visualize import BOX_COLOURS, draw_boxes, draw_kept


def with_stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))


def test_answer_and_summary(run, folder, picture):
    result = run("ask", "--model", folder, "--max-new-tokens", "4", picture, "What?")
    planned = PyramidSpec(tile_px=28, detail=(1, 4), adaptive=None).plan(Size(60, 90))
    detail, _, thumbnail = planned.level_tiles
    assert result.code == 0
    assert result.out.endswith("\n")
    pyramid, summary = result.err.splitlines(keepends=True)
    assert pyramid == f"{folder}: plain tiling: 1-4 tiles and a thumbnail, 28 px each\n"
    assert re.fullmatch(
        rf"{planned.tile_count} tiles \({detail} detail \+ {thumbnail} thumbnail\), {4 * planned.tile_count} image tokens; "
        r"[0-4] new tokens, the first after \d+\.\d\d s, the last after \d+\.\d\d s; loading took \d+\.\d\d s\n",
        summary,
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


def test_the_boxes_are_drawn_on_the_picture(run, folder, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("minimonkey.inference.generation.boxes_of", lambda text, source: [Box(10, 10, source.width // 2, 40)])
    out = tmp_path / "out.png"
    words = ("ask", "-m", folder, "--max-new-tokens", "2", picture, "What?", "--draw", str(out))
    result = run(*words, "--quiet")
    assert (result.code, result.err) == (0, f"wrote {out}\n")
    with Image.open(picture) as given, Image.open(out) as drawn:
        assert drawn.tobytes() == draw_boxes(given, [Box(10, 10, 45, 40)]).tobytes()
    out.unlink()
    told = run(*words, "--json")
    assert json.loads(told.out)["boxes"] == [[10, 10, 45, 40]]
    assert out.exists()


@pytest.mark.parametrize("option", ["--draw", "--draw-kept"])
def test_a_drawing_never_replaces_a_picture(run, picture, tmp_path, option):
    """Not the second one either, where there may be two; and it is told before the model is looked for."""
    other, link = tmp_path / "other.png", tmp_path / "link.png"
    Image.new("RGB", (30, 30)).save(other)
    read = [picture] if option == "--draw" else [picture, str(other)]
    link.symlink_to(read[-1])
    before = [Path(file).read_bytes() for file in (picture, other)]
    for target in (*read, str(link)):
        words = (*read, "What?", option, target, "--compression", "uniform")
        result = run("ask", "-m", "no-such-model/", *words)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"minimonkey: {option} {target} would replace a picture that is read: name another file\n"
    assert [Path(file).read_bytes() for file in (picture, other)] == before


def test_a_drawing_never_replaces_a_frame(run, picture, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    Path(picture).rename(clip / "1.png")
    (tmp_path / "link").symlink_to(clip)
    for target in (clip / "1.png", tmp_path / "link" / "1.png"):
        result = run("ask", "--frames", "2", str(clip), "What?", "--draw", str(target))
        assert (result.code, result.out) == (2, "")
        assert result.err == f"minimonkey: --draw {target} would replace a picture that is read: name another file\n"


def test_two_drawings_have_two_names(run, picture, tmp_path):
    out = tmp_path / "out.png"
    result = run("ask", picture, "What?", "--draw", str(out), "--draw-kept", str(out), "--compression", "uniform")
    assert (result.code, result.err) == (2, f"minimonkey: --draw {out} and --draw-kept {out} are one file: name two\n")


def test_boxes_of_several_pictures_are_not_drawn(run, folder, picture, tmp_path):
    out = tmp_path / "out.png"
    result = run("ask", "-m", folder, picture, picture, "What?", "--draw", str(out))
    told = "minimonkey: --draw takes one picture: about several, an answer doesn't tell which one a box is of; name one\n"
    assert (result.code, result.out, result.err) == (2, "", told)
    Image.new("RGB", (30, 30)).save(tmp_path / "1.png")
    Image.new("RGB", (30, 30)).save(tmp_path / "2.png")
    words = ("--frames", "2", str(tmp_path), "What?", "--draw", str(out))
    result = run("ask", "-m", folder, "--max-new-tokens", "2", "-q", *words)
    told = f"minimonkey: the answer doesn't tell which of several pictures a box is of, {out} is not written\n"
    assert (result.code, result.err) == (0, told)
    assert not out.exists()


def test_an_answer_without_boxes_is_not_drawn(run, folder, picture, tmp_path):
    out = tmp_path / "out.png"
    result = run("ask", "-m", folder, "--max-new-tokens", "2", "-q", "--draw", str(out), picture, "What?")
    assert (result.code, result.err) == (0, f"minimonkey: the answer has no boxes, {out} is not written\n")
    assert not out.exists()


def test_a_drawing_that_fails_after_the_answer_is_one_line(run, folder, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("minimonkey.inference.generation.boxes_of", lambda text, source: [Box(1, 2, 3, 4)])
    (tmp_path / "taken.png").mkdir()
    result = run("ask", "-m", folder, "--max-new-tokens", "2", picture, "What?", "--draw", str(tmp_path / "taken.png"))
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"can't write {tmp_path / 'taken.png'}: " in result.err


def test_what_compression_keeps_is_drawn(run, folder, picture, tmp_path):
    """A picture of 90 x 60 becomes 2 x 2 tiles of four tokens: every other one is kept."""
    out = tmp_path / "kept.png"
    words = ("ask", "-m", folder, "--max-new-tokens", "3", "--compression", "uniform:0.5", picture, "What?")
    result = run(*words, "--quiet", "--draw-kept", str(out))
    assert (result.code, result.err) == (0, f"wrote {out}\n")
    pyramid = PyramidSpec(tile_px=28, detail=(1, 4), adaptive=None).plan(Size(60, 90))
    assert pyramid.level_tiles == (4, 0, 1)
    with Image.open(picture) as given, Image.open(out) as drawn:
        assert drawn.tobytes() == draw_kept(given, pyramid, range(1, 16, 2), 4).tobytes()
    asked = json.loads(run(*words, "--json").out)
    assert asked["text"] + "\n" == result.out
    assert asked["tokens"]["image"] == 5 * 4
    assert asked["kept"] == [{"picture": 0, "selected": list(range(1, 16, 2))}]


def test_what_was_dropped_elsewhere_is_not_drawn(run, tiny_model, tiny_processor, picture, tmp_path):
    """The published code counts from the picture's first token on: with the demo's order these are adaptive ones."""
    out, model = tmp_path / "kept.png", str(tmp_path / "demo")
    tiny_model(pyramid=None).save_pretrained(model)
    tiny_processor(detail=(4, 6), adaptive=(1, 3), order=("adaptive", "detail", "thumbnail")).save_pretrained(model)
    words = ("--max-new-tokens", "1", "-q", "--draw-kept", str(out), picture, "What?")
    result = run("ask", "-m", model, "--compression", "scm-reference", *words)
    told = f"minimonkey: scm-reference dropped adaptive tokens too, which can't be drawn: {out} is not written\n"
    assert (result.code, result.err, out.exists()) == (0, told, False)
    for compression, more in (("scm", ()), ("scm-reference", ("--no-pyramid",))):
        out.unlink(missing_ok=True)
        result = run("ask", "-m", model, "--compression", compression, *more, *words)
        assert (result.code, result.err, out.exists()) == (0, f"wrote {out}\n", True)


def test_a_picture_of_one_tile_keeps_all(run, folder, tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "square.png")
    out = tmp_path / "kept.png"
    words = ("--pyramid", "1-1", "--compression", "uniform", str(tmp_path / "square.png"), "What?", "--draw-kept", str(out))
    result = run("ask", "-m", folder, "--max-new-tokens", "1", "-q", *words)
    told = f"minimonkey: the first picture has no detail level to drop tokens of, {out} is not written\n"
    assert (result.code, result.err, out.exists()) == (0, told, False)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("nothing", []),
        ("<box>[[1, 2, 3, 4]]</box>", [""]),
        ("<ref>the bus</ref><box>[[1, 2, 3, 4]]</box> and <box>[[5,6,7,8]]</box>", ["the bus", ""]),
        ("<ref> two\ncats </ref> <box>[[1,2,3,4], [5,6,7,8]]</box>", ["two cats", "two cats"]),
        ("<ref>a</ref> is not <ref>b</ref><box>[[1,2,3,4]]</box>", ["b"]),
        ("<ref>no places</ref><box>here</box><ref>c</ref><box>[[1,2,3,4]]", []),
    ],
)
def test_labels_of_boxes(text, labels):
    assert labels_of(text) == labels


def test_labels_are_drawn(tmp_path, capsys):
    answer = types.SimpleNamespace(boxes=[Box(20, 40, 120, 90), Box(150, 40, 190, 90)], token_ids=[7])
    text = "<ref>bus</ref><box>[[100,400,600,900]]</box><box>[[750,400,950,900]]</box>"
    vlm = types.SimpleNamespace(processor=types.SimpleNamespace(decode=lambda tokens: {(7,): text}[tuple(tokens)]))
    picture = Image.new("RGB", (200, 100), "grey")
    draw_answer(tmp_path / "out.png", picture, answer, vlm)
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.tobytes() == draw_boxes(picture, answer.boxes, ["bus", ""]).tobytes()
        assert drawn.getpixel((19, 36)) == BOX_COLOURS[0]
    assert capsys.readouterr() == ("", f"wrote {tmp_path / 'out.png'}\n")


def test_frames_are_one_tile_each_and_numbered(run, folder, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    for number in range(1, 12):
        Image.new("RGB", (90, 60), (20 * number, 0, 0)).save(clip / f"{number}.png")
    words = ("ask", "-m", folder, "--max-new-tokens", "3", "--json")
    watched = json.loads(run(*words, "--frames", "3", str(clip), "What?").out)
    assert [pyramid["levels"] for pyramid in watched["pyramids"]] == [{"thumbnail": {"columns": 1, "rows": 1}}] * 3
    assert watched["tokens"]["image"] == 3 * 4
    marks = "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\nWhat?"
    chosen = [str(clip / name) for name in ("2.png", "5.png", "9.png")]
    pictures = json.loads(run(*words, "--pyramid", "1-1", *chosen, marks).out)
    for name in ("text", "tokens", "mean_logprob"):
        assert watched[name] == pictures[name]


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
        (["--draw", "out.png", "What?"], "--draw draws on the first picture, and there is none"),
        (["--draw", "out.paper", "{picture}", "What?"], "try out.png"),
        (["--draw", "/no/such/out.png", "{picture}", "What?"], "there is no folder /no/such"),
        (["--draw-kept", "out.png", "{picture}", "What?"], "such as --compression scm:0.5"),
        (["--draw-kept", "out.png", "--compression", "scm", "What?"], "--draw-kept draws on the first picture, and there is none"),
        (["--compression", "some", "{picture}", "What?"], "no selector 'some'"),
        (["--compression", "scm:2", "{picture}", "What?"], "keep_ratio=2.0: expected a number above 0, at most 1"),
        (["--frames", "0", "{folder}", "What?"], "0 frames: expected a whole number from 1 to 40"),
        (["--frames", "41", "{folder}", "What?"], "41 frames"),
        (["--frames", "8", "{folder}", "What?"], "holds no pictures"),
        (["--frames", "8", "{folder}", "{folder}", "What?"], "--frames takes one video file or one folder"),
        (["--frames", "8", "-", "What?"], "--frames takes one video file or one folder"),
        (["--frames", "8", "What?"], "--frames takes one video file or one folder"),
        (["--frames", "8", "--pyramid", "1-4", "{folder}", "What?"], "leave --pyramid 1-4 out"),
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


def test_a_published_folder(run, golden):
    picture = str(golden / "pixels" / "wide_receipt.png")
    result = run("ask", "--model", str(golden / "minimonkey-internlm2-56"), "--max-new-tokens", "3", picture, "Read.")
    assert result.code == 0
    assert "CIP: 4-12 detail tiles, 3-7 adaptive tiles and a thumbnail, 56 px each" in result.err
    assert "17 tiles (12 detail + 4 adaptive + 1 thumbnail), 68 image tokens" in result.err


def test_a_published_folder_that_is_broken_or_renamed_gives_its_one_line(run, golden, tmp_path):
    picture = str(golden / "pixels" / "wide_receipt.png")
    shutil.copytree(golden / "minimonkey-internlm2-56", tmp_path / "Monkey")
    (tmp_path / "Monkey" / "tokenizer.model").write_bytes(b"no model")
    for name, words in (("Monkey", "tokenizer.model"), ("Ape", "no such folder")):
        result = run("ask", "--model", str(tmp_path / name), picture, "Read.")
        assert (result.code, result.out) == (2, "")
        assert words in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_picture_is_prepared_once(run, folder, picture, monkeypatch, more):
    prepared, original = [], pictures._to_rgb
    monkeypatch.setattr(pictures, "_to_rgb", lambda given, *how: prepared.append(given.size) or original(given, *how))
    assert run("ask", "-m", folder, "--max-new-tokens", "1", picture, "What?", *more).code == 0
    assert prepared == [(90, 60)]
