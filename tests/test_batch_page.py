"""docs/batch.md tells the truth: its commands and its Python run, one after the other, with the embedded model."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from minimonkey.cli.main import main
from tests.cli.surface import SURFACE

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "batch.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line) for language, code in BLOCKS if language == "sh" for line in code.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page's commands find: small crops of receipts, so that the embedded model has few tiles to look at."""
    where = tmp_path_factory.mktemp("page")
    (where / "receipts").mkdir()
    with Image.open(ROOT / "examples" / "receipt.png") as receipt:
        receipt = receipt.convert("RGB")
    lower = receipt.crop((0, receipt.height // 2, receipt.width, receipt.height))
    shutil.copy(ROOT / "examples" / "receipt.png", where / "receipts" / "a.png")
    lower.save(where / "receipts" / "b.png")
    receipt.save(where / "receipts" / "scan.pdf", save_all=True, append_images=[lower.copy()])
    (where / "questions.jsonl").write_text(next(code for language, code in BLOCKS if language == "json"))
    return where


def test_the_commands_exist():
    assert len(COMMANDS) == 7
    for program, name, *words in COMMANDS:
        assert program == "minimonkey"
        assert {word for word in words if word.startswith("--")} <= set(SURFACE[name])
    for option in re.findall(r"`(--[a-z-]+)", PAGE):
        assert option in SURFACE["batch"] + SURFACE["extract"]


@pytest.mark.slow
def test_the_page_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    said = []
    for _, *words in COMMANDS:
        with pytest.raises(SystemExit) as leaving:
            main(words)
        captured = capsys.readouterr()
        assert (leaving.value.code or 0) == 0, captured.err
        said.append(captured)
    with open("totals.csv", newline="") as file:
        table = list(csv.DictReader(file))
    header = next(line for line in PAGE.splitlines() if line.startswith("| file"))
    assert set(table[0]) == {name.strip() for name in header.strip("|").split("|")}
    assert [(row["file"], row["page"]) for row in table] == [("a.png", ""), ("b.png", ""), ("scan.pdf", "1"), ("scan.pdf", "2")]
    assert table[0]["answer"] == "10.50", "as the README says"
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [row["question"] for row in answers] == ["What is the total?", "What is the date?"] * 4
    assert [row["answer"] for row in answers[::2]] == [row["answer"] for row in table]
    with open("receipts.csv", newline="") as file:
        fields = list(csv.DictReader(file))
    assert list(fields[0]) == ["file", "page", "total", "date", "confidence", "text", "error"]
    assert all(json.loads(row["text"]).keys() == {"total", "date"} and 0 < float(row["confidence"]) <= 1 for row in fields)
    extracted, detailed = json.loads(said[3].out), json.loads(said[4].out)
    assert extracted.keys() == {"total", "date"}
    assert detailed["fields"].keys() == {"total", "items"} and "total" in detailed["confidence"]
    assert "4 rows of 4 records, no errors; 4 rows were there" in said[5].err
    (answered,) = [json.loads(line) for line in Path("answered.jsonl").read_text().splitlines()]
    assert (answered["id"], answered["answer"]) == (17, "10.50")


@pytest.mark.slow
def test_the_python_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, "batch.md", "exec"), {"__name__": "page"})
    assert "total" in capsys.readouterr().out
