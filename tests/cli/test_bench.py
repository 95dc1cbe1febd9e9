"""`minimonkey bench`: its table and its JSON, on a tiny random model."""

import json
import re

import pytest

from minimonkey.cli.bench import seconds, table
from minimonkey.evaluation.speed import Speed
from minimonkey.inference import load

SPEED = Speed(
    tiles=13,
    image_tokens=3328,
    prompt_tokens=3400,
    new_tokens=32,
    cut_s=0.04567,
    encode_ms_a_tile=1534.6,
    prompt_tokens_a_s=1234.5,
    first_token_s=23.45,
    new_tokens_a_s=12.34,
    open_s=23.4,
    second_question_s=0.1234,
    eight_questions_s=30.0,
    eight_fresh_s=210.0,
    compressed_share=0.513,
)


def test_the_table(run, folder, picture):
    result = run("bench", "--model", folder, "--picture", picture)
    lines = result.out.splitlines()
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(rf"{re.escape(folder)} on cpu by torch, float32, \d+ threads, {re.escape(picture)}", lines[0])
    assert re.fullmatch(r"5 tiles, 20 image tokens, \d+ tokens with the question", lines[1])
    whats = [what for what, _ in table(SPEED, 1.0)]
    assert [line[: len(what)] for line, what in zip(lines[2:], whats, strict=True)] == whats
    figures = [line[max(map(len, whats)) :] for line in lines[2:]]
    assert all(re.match(r"  [0-9]", figure) for figure in figures), "one column"


def test_json(run, folder):
    """Without a picture it is a page of noise, cut as --pyramid says."""
    result = run("bench", "--model", folder, "--pyramid", "2-2", "--json")
    found = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    setting = ["model", "picture", "device", "engine", "dtype", "quantize", "threads", "load_s"]
    assert list(found) == [*setting, *vars(SPEED)]
    assert (found["model"], found["picture"], found["device"], found["dtype"]) == (folder, "a page of noise", "cpu", "float32")
    assert (found["engine"], found["quantize"]) == ("torch", None)
    assert (found["tiles"], found["image_tokens"]) == (3, 12)
    assert found["load_s"] > 0


def test_another_engine_and_fewer_bits_are_told(run, folder, picture, monkeypatch):
    plain = load(folder, device="cpu")
    monkeypatch.setattr("minimonkey.inference.load", lambda model, **settings: plain)
    monkeypatch.setattr("minimonkey.evaluation.speed.measure", lambda vlm, page, done: SPEED)
    words = ("bench", "-m", folder, "--picture", picture, "--engine", "openvino", "--quantize", "int8")
    head = run(*words).out.splitlines()[0]
    assert re.fullmatch(rf"{re.escape(folder)} on cpu by openvino, float32 with int8 weights, \d+ threads, .*", head)
    found = json.loads(run(*words, "--json").out)
    assert (found["engine"], found["quantize"], found["dtype"]) == ("openvino", "int8", "float32")


def test_figures_in_words():
    rows = dict(table(SPEED, 4.0))
    assert rows["loading the model, imports included"] == "4.00 s"
    assert rows["cutting the picture into tiles"] == "45.7 ms"
    assert rows["vision encoder"] == "1534.6 ms a tile"
    assert rows["language model, reading"] == "1,234 tokens a second"
    assert rows["reading without half of the detail tokens"] == "51% of the time"
    assert rows["language model, writing"] == "12.3 tokens a second"
    assert rows["second question about it to the first token"] == "123 ms, 0.53% of afresh"
    assert rows["the same without opening, against one by one"] == "6.60 s, 3.2 x faster"  # 8 x (0.1234 + 31 / 12.34)
    assert rows["eight questions in a batch, opening included"] == "30.0 s, 7.0 x faster than afresh"
    bare = Speed(**vars(SPEED) | {"compressed_share": None})
    assert dict(table(bare, 4.0))["reading without half of the detail tokens"] == "there is no detail level"


@pytest.mark.parametrize(
    ("number", "text"), [(210.4, "210 s"), (12.34, "12.3 s"), (1.0, "1.00 s"), (0.1234, "123 ms"), (0.00274, "2.74 ms")]
)
def test_seconds(number, text):
    assert seconds(number) == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--picture", "no-such.png"], "no-such.png"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--pyramid", "0-4"], "0"),
        (["--device", "abacus"], "abacus"),
        (["--model", "{folder}", "--pyramid", "600-600"], "the prompt has"),
    ],
)
def test_bad_input_is_one_line(run, folder, words, message):
    result = run("bench", *(word.format(folder=folder) for word in words))
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
