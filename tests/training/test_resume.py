"""A run that is cut off, however and whenever, ends where an uninterrupted one does; what can't go on says so in one line."""

import dataclasses
import errno
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from minimonkey.errors import CheckpointError, UsageError
from minimonkey.training import batches, loop, state, tune
from minimonkey.training.objective import AnswerLoss
from minimonkey.training.run import run_tuning

DROPPING = {
    "drop_path": 0.5,
    "parts": {"vision": {}, "projector": {}, "language": {"lora": {"rank": 2, "dropout": 0.3}}},
}
PACKING = {"packing": {"max_tokens": 200}}
SCRIPT = """
import json, sys
from pathlib import Path
from minimonkey.recipe_file import build
from minimonkey.training.config import TuningRecipe
from minimonkey.training.run import run_tuning

try:
    run_tuning(build(TuningRecipe, json.loads(Path(sys.argv[1]).read_text()), sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(130)
"""
"""A run as a program of its own."""


def log(folder):
    """What doesn't depend on the clock."""
    kept = ("step", "loss", "gradient_norm", "rate", "held_out_loss")
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text("utf-8").splitlines()]
    return [{key: line[key] for key in kept if key in line} for line in lines]


def weights(folder):
    return load_file(next(Path(folder).glob("tuned/*.safetensors")))


def same(one, other):
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours) and log(one) == log(other)


def start(recipe_file):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(recipe_file)], start_new_session=True, stderr=subprocess.DEVNULL)


def written(tuning, **changes):
    """The recipe as a file, for a program of its own."""
    recipe = tuning(**changes)
    Path(f"{recipe.out}.json").write_text(json.dumps(dataclasses.asdict(recipe)))
    return recipe, Path(f"{recipe.out}.json")


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def cut_off(monkeypatch, numbers, how):
    """The run is cut off before steps of these numbers, counted over all calls."""
    original, calls = tune.Tuning.take_step, iter(range(10**6))

    def take_step(self):
        if next(calls) in numbers:
            how()
        return original(self)

    monkeypatch.setattr(tune.Tuning, "take_step", take_step)


class Crash(BaseException):
    """What no handler of ours knows, as if the process had been killed."""


def crash():
    raise Crash


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows", [{}, PACKING, {"accumulate": 2, "batch_rows": 1}], ids=["padded", "packed", "accumulated"])
def test_a_crash_anywhere_costs_nothing(tuning, monkeypatch, workers, rows):
    """Checkpoints at random steps, dropout and drop path on, a log line every third step."""
    settings = DROPPING | rows | {"steps": 12, "log_every": 3, "workers": workers, "merge": True}
    run_tuning(tuning(**settings, out="whole"))
    cut_off(monkeypatch, {1, 6, 9, 15}, crash)
    for attempt in range(5):
        monkeypatch.setattr(loop.time, "monotonic", lambda number=attempt: random.Random(time.perf_counter_ns()).random() * 90)
        try:
            run_tuning(tuning(**settings, out="parts", checkpoint_minutes=0.5))
        except Crash:
            continue
        break
    assert same("parts", "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows", [{}, PACKING], ids=["padded", "packed"])
def test_kill_9_at_any_time_costs_nothing(tuning, workers, rows):
    settings = DROPPING | rows | {"steps": 24, "workers": workers, "checkpoint_minutes": 0.0}
    run_tuning(tuning(**settings, out="whole"))
    file, dice = written(tuning, **settings, out="parts")[1], random.Random(workers + len(rows))
    for _ in range(4):
        before = len(list(Path("parts").glob("checkpoint-*"))) and max(Path("parts").glob("checkpoint-*")).name
        process = start(file)
        wait_for(lambda: any(path.name > str(before or "") for path in Path("parts").glob("checkpoint-*")), process)  # noqa: B023
        time.sleep(dice.random())
        process.kill()
        process.wait()
    with start(file) as process:
        assert process.wait(300) == 0
    assert same("parts", "whole")


def test_a_killed_run_can_be_started_again_at_once(tuning):
    """Its workers outlive it by seconds; they mustn't hold its folder."""
    recipe, file = written(tuning, steps=100000, workers=2, out="killed")
    with start(file) as process:
        wait_for(lambda: Path("killed/log.jsonl").exists(), process)
        with pytest.raises(UsageError, match="killed: another process trains in it; wait for its end, or give this run another"):
            run_tuning(recipe)
        process.kill()
    run_tuning(tuning(steps=2, out="killed"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_checkpoint(tuning, monkeypatch, interruptible, number):
    run_tuning(tuning(out="whole"))
    cut_off(monkeypatch, {3}, lambda: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt):
        run_tuning(tuning(out="parts"))
    assert [path.name for path in Path("parts").glob("checkpoint-*")] == ["checkpoint-00000004"]
    run_tuning(tuning(out="parts"))
    assert same("parts", "whole")


def test_an_interrupt_before_an_evaluation_puts_it_off(tuning, monkeypatch, interruptible):
    held_out = {"rows": "rows.jsonl", "images": "images", "every": 3}
    run_tuning(tuning(out="whole", evaluation=held_out))
    cut_off(monkeypatch, {2}, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_tuning(tuning(out="parts", evaluation=held_out))
    assert [line["step"] for line in log("parts")] == [1, 2, 3]
    run_tuning(tuning(out="parts", evaluation=held_out))
    assert same("parts", "whole")


def test_so_many_minutes_a_call(tuning):
    run_tuning(tuning(out="whole", steps=3))
    short = [run_tuning(tuning(out="parts", steps=3, max_minutes=1e-9)).name for _ in range(3)]
    assert short == ["checkpoint-00000001", "checkpoint-00000002", "tuned"]
    assert same("parts", "whole")


# -- what goes wrong -------------------------------------------------------------------------------------------------------------


def kept(folder="runs/tiny"):
    return {path: path.stat().st_mtime_ns for path in Path(folder).glob("checkpoint-*/*")}


@pytest.fixture
def begun(tuning):
    """A run with two checkpoints of six steps: `begun(...)` goes on with it by a changed recipe."""
    run_tuning(tuning(steps=4, checkpoint_minutes=0.0))
    return lambda **changes: run_tuning(tuning(**({"steps": 6} | changes)))


def full_disk(*arguments, **settings):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["state", "log", "publish"])
def test_a_full_disk_is_one_line_and_costs_no_step(tuning, begun, monkeypatch, what):
    original = Path.open
    full = {
        "state": (state, "save_file", full_disk),
        "log": (Path, "open", lambda self, mode="r", **more: full_disk() if mode == "a" else original(self, mode, **more)),
        "publish": (PreTrainedModel, "save_pretrained", full_disk),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*full[what])
        with pytest.raises(
            UsageError, match=r"^can't write runs/tiny/\S+: No space left on device; make room, the same command goes on$"
        ):
            begun()
    assert Path("runs/tiny/checkpoint-00000004/progress.json").exists()
    assert not list(Path("runs/tiny").glob("partial")) and not list(Path("runs/tiny").glob(".tuned"))
    begun()
    run_tuning(tuning(out="again", steps=4))  # the schedule knows how many steps there are
    run_tuning(tuning(out="again"))
    assert same("runs/tiny", "again")


@pytest.mark.parametrize("file", ["trained.safetensors", "optimizer.safetensors", "optimizer.json", "place.json", "progress.json"])
def test_a_broken_checkpoint_is_one_line_and_the_one_before_goes_on(begun, file):
    last = sorted(Path("runs/tiny").glob("checkpoint-*"))[-1]
    (last / file).write_bytes((last / file).read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=rf"^{last} is broken \([^\n]+\); remove it to go on from the one before$"):
        begun()
    for part in last.iterdir():
        part.unlink()
    last.rmdir()
    assert begun().name == "tuned" and [line["step"] for line in log("runs/tiny")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": {"vision": {"train": False}}}, "the run was begun with parts="),
        ({"stage": "lora"}, "the run was begun with parts="),
        (
            {"batch_rows": 3},
            "the run was begun with batch_rows=2, now it is 3; go on with the former, or give this run another folder",
        ),
        ({"packing": {"max_tokens": 500}}, "the run was begun with packing=None"),
        ({"seed": 1}, "the run was begun with seed=0, now it is 1"),
        ({"dtype": "bfloat16"}, "the run was begun with dtype='float32', now it is 'bfloat16'"),
        ({"accumulate": 2}, "a step had 1 batches (processes x accumulate), here 1 x 2; set accumulate=1"),
    ],
)
def test_what_cannot_change_while_a_run_goes_on(begun, changes, message):
    before = kept()
    with pytest.raises((CheckpointError, UsageError), match=re.escape(message)) as caught:
        begun(**changes)
    assert "\n" not in str(caught.value) and kept() == before


def test_what_may_change_while_a_run_goes_on(begun):
    begun(optimizer={"rate": 1e-4, "clip_norm": 0.5}, workers=1, log_every=2, drop_path=0.1, reduction="sample", max_tokens=4000)


def test_other_ranks_of_adapters(tuning):
    lora = {"vision": {"train": False}, "projector": {"train": False}, "language": {"lora": {"rank": 2}}}
    run_tuning(tuning(steps=2, parts=lora))
    with pytest.raises(CheckpointError, match=r"the run was begun with parts=.*; go on with the former"):
        run_tuning(tuning(steps=4, parts=lora | {"language": {"lora": {"rank": 3}}}))


def test_a_checkpoint_of_other_tensors(tuning, begun):
    """Whose recipe says otherwise: somebody has copied files."""
    last = sorted(Path("runs/tiny").glob("checkpoint-*"))[-1]
    run_tuning(tuning(steps=1, stage="align", out="aligned"))
    (last / "trained.safetensors").write_bytes(Path("aligned/checkpoint-00000001/trained.safetensors").read_bytes())
    with pytest.raises(
        CheckpointError, match=r"was not trained there; give this run another folder \(out\), or its recipe the former"
    ):
        begun()


def test_data_with_other_rows(begun):
    lines = Path("rows.jsonl").read_text("utf-8").splitlines()
    Path("rows.jsonl").write_text("\n".join(lines[:-1]), "utf-8")
    with pytest.raises(
        UsageError, match=r"the data has changed since the run began: it was 'rows' with 9 rows, .* 'rows' with 8 rows"
    ):
        begun()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_and_rows(tuning, begun, monkeypatch, value):
    before, original, calls = kept(), AnswerLoss.forward, iter(range(99))
    monkeypatch.setattr(AnswerLoss, "forward", lambda self, *batch: original(self, *batch) * (value if next(calls) == 1 else 1))
    with pytest.raises(
        UsageError,
        match=r"^step 6: the loss isn't a finite number \(rows \S*rows.jsonl, line \d, \S*rows.jsonl, line \d\); lower the",
    ):
        begun()
    monkeypatch.setattr(AnswerLoss, "forward", original)
    assert all(kept()[path] == before[path] for path in before.keys() & kept().keys())
    assert [path.name for path in sorted(Path("runs/tiny").glob("checkpoint-*"))] == ["checkpoint-00000004", "checkpoint-00000005"]
    begun()
    assert len(log("runs/tiny")) == 6


def test_a_gradient_that_is_not_finite_names_step_and_rows(begun, monkeypatch):
    before, original = kept(), tune.Tuning._backward

    def backward(self, loaded, total, *, last):
        loss = original(self, loaded, total, last=last)
        next(iter(self.bare.parameters())).grad.fill_(torch.nan)
        return loss

    monkeypatch.setattr(tune.Tuning, "_backward", backward)
    with pytest.raises(
        UsageError, match=r"^step 5: the gradient isn't a finite number \(rows \S*rows.jsonl, line \d, \S*rows.jsonl"
    ):
        begun()
    assert kept() == before


def test_an_update_that_ruins_the_weights_is_not_kept(begun, monkeypatch):
    before, original = kept(), tune.Tuning.take_step

    def take_step(self):
        figures = original(self)
        next(iter(self.bare.parameters())).data.fill_(torch.nan)
        return figures

    monkeypatch.setattr(tune.Tuning, "take_step", take_step)
    with pytest.raises(UsageError, match=r"^step 5: the loss after the update isn't a finite number; lower the rate"):
        begun(checkpoint_minutes=0.0)
    assert kept() == before


def test_what_is_left_out_needs_its_list(tuning, monkeypatch):
    Path("rows.jsonl").write_text(Path("rows.jsonl").read_text("utf-8") + "{\n", "utf-8")
    Path("runs/tiny/skipped.jsonl").mkdir(parents=True)
    monkeypatch.setattr(batches.Batches, "__post_init__", lambda self: None)
    with pytest.raises(UsageError, match=r"^can't write runs/tiny/skipped.jsonl: Is a directory"):
        run_tuning(tuning(data={"rows": "rows.jsonl", "images": "images", "bad_rows": "skip"}))
