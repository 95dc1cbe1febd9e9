"""What an accelerator computes is what the CPU computes: `pytest -m gpu`, which `make gpu` calls.

MINIMONKEY_DEVICE names the device, "cuda" if not given; "cpu" tries the tests themselves.
"""

import os
from pathlib import Path

import pytest
import torch

import minimonkey
from minimonkey.compression import SELECTORS, CompressionSpec

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("MINIMONKEY_DEVICE", "cuda")
QUESTIONS = ["How much is the coffee?", "What is the total?", "Read the line that begins with Apple."]
ANSWERS = ["3.20", "10.50", "Apple cake 4.50"]
RECEIPT = "examples/receipt.png"


@pytest.fixture(scope="module", autouse=True)
def in_the_root(pytestconfig):
    """Pictures are named from the repository's root."""
    before = os.getcwd()
    os.chdir(pytestconfig.rootpath)
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def there():
    return minimonkey.load(device=DEVICE, dtype="float32")


@pytest.fixture(scope="module")
def here():
    return minimonkey.load(device="cpu", dtype="float32")


def test_it_is_on_the_device(there):
    assert {parameter.device.type for parameter in there.model.parameters()} == {torch.device(DEVICE).type}


@pytest.mark.parametrize(("question", "answer"), list(zip(QUESTIONS, ANSWERS, strict=True)))
def test_ask_and_stream(there, question, answer):
    assert there.ask(RECEIPT, question).text == answer
    assert "".join(there.stream(RECEIPT, question)) == answer


def test_batch(there):
    rows = [(RECEIPT, question) for question in QUESTIONS] + [("examples/line.png", "Read the text."), ([], "What is the total?")]
    assert [answer.text for answer in there.batch(rows)] == [there.ask(*row).text for row in rows]


def test_an_open_picture(there):
    with there.open(RECEIPT) as opened:
        assert [opened.ask(question).text for question in QUESTIONS] == ANSWERS
        assert [answer.text for answer in opened.ask_many(QUESTIONS)] == ANSWERS


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_selector_keeps_the_same_tokens(here, there, selector):
    spec = CompressionSpec(selector, 0.5)
    ours, theirs = (vlm.ask(RECEIPT, QUESTIONS[1], compression=spec, max_new_tokens=8) for vlm in (here, there))
    assert ours.text == theirs.text
    for here_kept, there_kept in zip(ours.selections, theirs.selections, strict=True):
        assert here_kept.selected.tolist() == there_kept.selected.tolist()


@pytest.mark.parametrize("name", ["internvl2-qwen2-56", "minimonkey-internlm2-56"])
def test_published_folders(golden, name):
    """Logits of a published checkpoint on the device are those on the CPU."""
    vlms = [minimonkey.load(golden / name, device=device, dtype="float32") for device in ("cpu", DEVICE)]
    logits = []
    for vlm in vlms:
        inputs = vlm.processor(images=vlm_picture(golden), text="<image>\nWhat?", return_tensors="pt").to(vlm.model.device)
        with torch.no_grad():
            logits.append(vlm.model(**inputs).logits.cpu())
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)


def vlm_picture(golden):
    return minimonkey.load_picture(golden / "pixels" / "wide_receipt.png")


def test_bfloat16_is_near(here):
    """The format that load() chooses for an accelerator: the same first words, probabilities within its rounding."""
    vlm = minimonkey.load(device=DEVICE, dtype="bfloat16")
    inputs = vlm.processor(images=minimonkey.load_picture(RECEIPT), text="<image>\nWhat?", return_tensors="pt")
    with torch.no_grad():
        rounded, exact = (
            each.model(**inputs.to(each.model.device)).logits[0, -1].float().cpu().softmax(-1) for each in (vlm, here)
        )
    assert (rounded - exact).abs().max() < 0.1


def test_two_steps_of_training(tmp_path, monkeypatch):
    """A step's loss is finite, and the run leaves a checkpoint that answers."""
    from minimonkey.training.nano import run

    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    words = ["name=two-steps", "steps=2", "workers=0", "tiles_per_batch=8", "start=src/minimonkey/nano", "log_every=1"]
    last = run.train(Path("recipes/train/nano-12-heads.yaml"), [*words, "material=available"])
    log = (last.parent / "log.jsonl").read_text().splitlines()
    assert len(log) == 2 and all("NaN" not in line for line in log)
    assert minimonkey.load(last, device=DEVICE).ask("examples/line.png", "Read the text.", max_new_tokens=4).token_ids
