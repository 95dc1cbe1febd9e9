"""The commands on Monkey's published folder: the same words as for any model."""

import json

import pytest


@pytest.fixture
def monkey(golden):
    return str(golden / "monkey" / "checkpoint")


def test_ask(run, monkey, picture):
    words = ("ask", "-m", monkey, picture, "What is it?", "--max-new-tokens", "2", "--json")
    answer = json.loads(run(*words).out)
    assert (answer["tokens"]["image"], answer["pyramids"][0]["tiles"]) == (1280, 5)
    adaptive = json.loads(run(*words, "--pyramid", "4-4/3-7").out)
    assert adaptive["tokens"]["image"] > 1280


def test_inspect(run, monkey, picture, tmp_path):
    out = tmp_path / "windows.png"
    result = run("inspect", "-m", monkey, picture, "--out", str(out))
    assert (result.code, out.is_file()) == (0, True)
    assert "2x2 tiles" in result.out and "1280 image tokens, 256 a tile" in result.out
    assert "3x2 tiles" in run("inspect", "-m", monkey, picture, "--out", str(out), "--pyramid", "3x2").out


def test_more_windows_than_adapters_is_one_line(run, monkey, picture):
    result = run("ask", "-m", monkey, picture, "What?", "--pyramid", "3x2")
    assert result.code == 2
    assert result.err.strip().splitlines()[-1].count("a picture has 6 windows, and this model adapters for 4") == 1


def test_convert(run, monkey, picture, tmp_path):
    assert run("convert", monkey, str(tmp_path / "native")).code == 0
    assert run("convert", monkey, str(tmp_path / "stock"), "--to", "stock").code == 2
    words = (picture, "What is it?", "--max-new-tokens", "4")
    assert run("ask", "-m", str(tmp_path / "native"), *words).out == run("ask", "-m", monkey, *words).out
