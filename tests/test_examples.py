"""The scripts under examples/ run, stay short, and print what they promise."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short(path):
    assert len(path.read_text().splitlines()) <= 40


def run(name, monkeypatch, capsys, *arguments) -> list[str]:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.strip().splitlines()


def test_asking_and_streaming_say_the_same(monkeypatch, capsys):
    answer, figures, streamed = run("ask_a_picture.py", monkeypatch, capsys)
    assert answer == streamed and len(answer) > 10
    assert "image tokens" in figures


def test_the_transformers_way_reads_two_pictures(monkeypatch, capsys):
    lines = run("the_transformers_way.py", monkeypatch, capsys)
    assert len(lines) >= 2


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's
def test_transformers_trainer_and_peft_take_our_batches(monkeypatch, capsys, tmp_path):
    *_, line = run("finetune_with_trainer.py", monkeypatch, capsys, str(tmp_path), "3")
    first, last = (float(word) for word in line.split(";")[0].removeprefix("loss ").split(" -> "))
    assert last < first
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_cutting_needs_no_model(monkeypatch, capsys, tmp_path):
    lines = run("cut_a_picture.py", monkeypatch, capsys, str(tmp_path / "out.png"))
    assert lines[0] == "460x600 px -> 19 tiles of 448 px"
    with Image.open(tmp_path / "out.png") as drawing:
        assert drawing.width > 460
