"""A run looks at rows that it doesn't learn: their loss, answers that the network gives, the best checkpoint, and who is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.tracking import GeneralTracker, on_main_process
from safetensors.torch import load_file

import minimonkey
from minimonkey.errors import DataError, MissingExtraError, UsageError
from minimonkey.evaluation.metrics import anls
from minimonkey.training import held_out, tune
from minimonkey.training.loop import Look
from minimonkey.training.run import run_tuning

HELD_OUT = {"rows": "held.jsonl", "images": "images", "every": 2}
QUESTION = "Which number?"


@pytest.fixture
def held(tuning):
    """`tuning`, with held-out rows: two of the rows and one of two turns."""
    lines = Path("rows.jsonl").read_text("utf-8").splitlines()
    turns = [("human", "First?"), ("gpt", "1"), ("human", "Then?"), ("gpt", "2")]
    row = {"image": "5.png", "conversations": [{"from": name, "value": value} for name, value in turns]}
    Path("held.jsonl").write_text("\n".join([lines[1], lines[4], json.dumps(row)]), "utf-8")
    return tuning


def log(folder="runs/tiny"):
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text("utf-8").splitlines()]


def looks(folder="runs/tiny", key="held_out_loss"):
    return {line["step"]: line[key] for line in log(folder) if key in line}


def test_the_loss_is_that_of_the_rows_together(held):
    run_tuning(held(steps=4, evaluation=HELD_OUT))
    assert list(looks()) == [2, 4]
    network = minimonkey.load("runs/tiny/tuned").model
    recipe = held(data={"rows": "held.jsonl", "images": "images"})
    processor = tune.open_model(tune.find_folder("model"), recipe)[1]
    rows = tune.TrainingRows(tune.open_mixture(recipe), processor, recipe)
    with torch.no_grad():
        loss = tune.AnswerLoss(network)(rows[[0, 1, 2]].batch)
    assert min(looks().values()) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("metric", ["exact", "anls"])
def test_answers_are_really_given(held, monkeypatch, metric):
    """The score of the last look is that of the tuned model, asked by us."""
    asked = []
    original = held_out.VisionLanguageModel.ask
    monkeypatch.setattr(
        held_out.VisionLanguageModel,
        "ask",
        lambda self, pictures, question, **settings: (
            asked.append((question, settings.get("history"))) or original(self, pictures, question, **settings)
        ),
    )
    optimizer = {"rate": 1e-2, "schedule": "constant", "warmup_fraction": 0.0}
    run_tuning(held(data={"rows": "held.jsonl", "images": "images"}, batch_rows=3, steps=40, optimizer=optimizer,
                    evaluation=HELD_OUT | {"metric": metric, "every": 20}))  # fmt: skip
    assert asked[:3] == [(f"<image>\n{QUESTION}", []), (QUESTION, []), ("Then?", [("<image>\nFirst?", "1")])]
    found = looks(key=f"held_out_{metric}")
    assert list(found) == [20, 40] and set(looks()) == {20, 40}
    vlm = minimonkey.load("runs/tiny/tuned")
    answers = [
        vlm.ask("images/1.png", QUESTION, max_new_tokens=30).text,
        vlm.ask([], QUESTION, max_new_tokens=30).text,
        vlm.ask("images/5.png", "Then?", history=[("<image>\nFirst?", "1")], max_new_tokens=30).text,
    ]
    expected = ["It is 11", "It is 44444", "2"]
    scores = [
        float(one == other) if metric == "exact" else anls(one, [other]) for one, other in zip(answers, expected, strict=True)
    ]
    assert max(found.values()) == pytest.approx(sum(scores) / 3)
    assert max(found.values()) > 0.3, "40 steps over three rows teach it something"


def scored(monkeypatch, scores):
    """The evaluations see these scores."""
    left = iter(scores)
    monkeypatch.setattr(held_out.HeldOut, "look", lambda *arguments: Look({"held_out_loss": 1.0}, next(left)))


def test_the_best_checkpoint_is_kept_and_published(held, monkeypatch):
    scored(monkeypatch, [0.1, 0.5, 0.4, 0.5])
    run_tuning(held(steps=8, evaluation=HELD_OUT, keep_checkpoints=1))
    assert [path.name for path in sorted(Path("runs/tiny").glob("checkpoint-*"))] == ["checkpoint-00000004", "checkpoint-00000008"]
    files = ("checkpoint-00000004/trained", "checkpoint-00000008/trained", "tuned/model")
    best, last, tuned = (
        next(tensor for name, tensor in load_file(f"runs/tiny/{file}.safetensors").items() if name.endswith("lm_head.weight"))
        for file in files
    )
    assert torch.equal(tuned, best) and not torch.equal(tuned, last)
    assert json.loads(Path("runs/tiny/best.json").read_text()) == {"evaluated": 8, "best": {"step": 4, "score": 0.5}}


def test_a_resumed_run_knows_the_best(held, monkeypatch):
    scored(monkeypatch, [0.9, 0.4])
    run_tuning(held(steps=4, evaluation=HELD_OUT, keep_checkpoints=1))
    scored(monkeypatch, [0.5, 0.6])
    run_tuning(held(steps=8, evaluation=HELD_OUT, keep_checkpoints=1))
    assert [path.name for path in sorted(Path("runs/tiny").glob("checkpoint-*"))] == ["checkpoint-00000002", "checkpoint-00000008"]
    shutil.rmtree("runs/tiny/checkpoint-00000008")
    shutil.rmtree("runs/tiny/checkpoint-00000002")
    scored(monkeypatch, [0.1] * 4)
    run_tuning(held(steps=8, evaluation=HELD_OUT))
    assert list(looks()) == [2, 4, 6, 8] and json.loads(Path("runs/tiny/best.json").read_text())["best"]["step"] == 2


@pytest.mark.parametrize(
    ("row", "metric", "error", "message"),
    [
        ('{"conversations": []}', "loss", DataError, "held.jsonl:1: "),
        (
            '{"conversations": [{"from": "gpt", "value": "a"}]}',
            "exact",
            UsageError,
            "question and answer by turns; held.jsonl:1 is",
        ),
    ],
)
def test_held_out_rows_that_cannot_be_used_are_told_before_the_first_step(held, row, metric, error, message):
    Path("held.jsonl").write_text(row, "utf-8")
    with pytest.raises(error, match=message):
        run_tuning(held(evaluation=HELD_OUT | {"metric": metric}))
    assert not Path("runs/tiny/log.jsonl").exists()


# -- trackers --------------------------------------------------------------------------------------------------------------------


class Told(GeneralTracker):
    """Remembers what it is told."""

    name, requires_logging_directory = "told", False

    def __init__(self):
        super().__init__()
        self.lines, self.ended = [], False

    @property
    def tracker(self):
        return self

    @on_main_process
    def log(self, values, step, **_):
        self.lines.append((step, values))

    @on_main_process
    def finish(self):
        self.ended = True


def test_trackers_are_told_what_the_log_says(held, monkeypatch):
    told, original = Told(), tune.Accelerator
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(tune, "Accelerator", lambda log_with, **settings: original(log_with=[told], **settings))
    run_tuning(held(steps=4, log_every=2, evaluation=HELD_OUT, trackers=["tensorboard"]))
    assert [step for step, _ in told.lines] == [2, 2, 4, 4] and told.ended
    for line, (step, values) in zip(log(), told.lines, strict=True):
        assert line["step"] == step
        assert all(line[key] == pytest.approx(value) for key, value in values.items())


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_one_line(held, monkeypatch, tracker):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"^tracker {tracker} needs {tracker}: pip install 'minimonkey\[{tracker}\]'$"):
        run_tuning(held(trackers=[tracker]))
