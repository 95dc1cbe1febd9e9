"""The main path from end to end in less than a minute: what has to work on the day on which a new transformers comes out.

`make test-edge` runs these nine alone, on the newest release that pip finds. Whatever transformers has to say about our calls, in
a warning or in its log, is an error.
"""

import json
import logging
from pathlib import Path

import pytest

import minimonkey
from minimonkey.compression import CompressionSpec
from minimonkey.training.nano import run

ROOT = Path(__file__).parents[1]
RECEIPT = ROOT / "examples" / "receipt.png"
COFFEE, TOTAL = ("How much is the coffee?", "3.20"), ("What is the total?", "10.50")

RECIPE = f"""
name: two-steps
material: package
stage: read
start: {ROOT / "src" / "minimonkey" / "nano"}
steps: 2
workers: 0
tiles_per_batch: 4
log_every: 1
evaluate_every: 0
mixed_precision: "no"
optimizer: {{muon_lr: 0.0001, adamw_lr: 0.00001, warmup_steps: 0}}
mixture:
  - {{kind: line, max_tiles: 4}}
"""


@pytest.fixture(autouse=True)
def nothing_logged(caplog):
    """transformers, which keeps its log from others, says nothing in it."""
    theirs = logging.getLogger("transformers")
    theirs.addHandler(caplog.handler)
    yield
    theirs.removeHandler(caplog.handler)
    said = caplog.get_records("setup") + caplog.get_records("call")
    assert not [line.getMessage() for line in said if line.name.startswith("transformers") and line.levelno >= logging.WARNING]


@pytest.fixture(scope="module")
def nano():
    return minimonkey.load()


def said(nano, *asked: tuple[str, str], **settings) -> bool:
    """Whether the model gives these answers to these questions about the receipt, each by itself."""
    return [nano.ask(RECEIPT, question, **settings).text for question, _ in asked] == [answer for _, answer in asked]


def test_load():
    nano = minimonkey.load()
    assert sum(parameter.numel() for parameter in nano.model.parameters()) == 7_478_976
    assert nano.processor.image_processor.spec.tile_px == nano.model.config.vision_config.image_size[0] == 224


def test_ask(nano):
    answer = nano.ask(RECEIPT, COFFEE[0])
    assert (answer.text, answer.image_tokens, len(answer.token_ids)) == (COFFEE[1], 19 * 64, 4)


def test_open(nano):
    with nano.open(RECEIPT) as opened:
        assert [opened.ask(question).text for question, _ in (COFFEE, TOTAL)] == [COFFEE[1], TOTAL[1]]
        assert opened.cache_bytes > 0


def test_stream(nano):
    pieces = list(nano.stream(RECEIPT, TOTAL[0]))
    assert len(pieces) > 1
    assert "".join(pieces) == TOTAL[1]


def test_batch(nano):
    answers = nano.batch([(RECEIPT, COFFEE[0]), (RECEIPT, TOTAL[0]), ([], "?")], max_new_tokens=8)
    assert [answer.text for answer in answers[:2]] == [COFFEE[1], TOTAL[1]]
    assert [answer.image_tokens for answer in answers] == [19 * 64, 19 * 64, 0]


@pytest.mark.parametrize("queries", ["all", "vision"])
def test_scm(nano, queries):
    answer = nano.ask(RECEIPT, TOTAL[0], compression=CompressionSpec("scm", keep_ratio=0.5, queries=queries))
    assert (answer.text, [len(kept.selected) for kept in answer.selections]) == (TOTAL[1], [12 * 64 // 2])


def test_openvino():
    assert said(minimonkey.load(engine="openvino"), COFFEE, TOTAL)


def test_save(nano, tmp_path):
    nano.model.save_pretrained(tmp_path)
    nano.processor.save_pretrained(tmp_path)
    again = minimonkey.load(tmp_path)
    assert said(again, COFFEE)
    before, after = nano.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    assert all(tensor.equal(after[name]) for name, tensor in before.items())


def test_train_two_steps(nano, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    folder = run.train(tmp_path / "recipe.yaml")
    log = [json.loads(line) for line in (tmp_path / "runs" / "two-steps" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert all(0 < line["loss"] < 5 for line in log)
    trained = minimonkey.load(folder)
    assert said(trained, TOTAL)
    before, after = nano.model.state_dict(), trained.model.state_dict()
    assert before.keys() == after.keys()
    assert not before["lm_head.weight"].equal(after["lm_head.weight"])
