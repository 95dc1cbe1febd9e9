"""A run leaves what it says in its folder; a resumed run ends where an uninterrupted one does."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

import minimonkey
from minimonkey.errors import CheckpointError, DataError, ShortOfMemoryError, UsageError
from minimonkey.synthetic.material import choice
from minimonkey.synthetic.material.typefaces import catalogue
from minimonkey.training.nano import batches, run, trainer
from minimonkey.training.nano.losses import Losses
from minimonkey.training.nano.run import train

RECIPE = """
name: small
stage: {stage}
material: package
steps: {steps}
seed: 3
workers: 0
tiles_per_batch: 3
log_every: 2
evaluate_every: 0
mixed_precision: "no"
characters_weight: 0.5
optimizer: {{warmup_steps: 2, decay_fraction: 0.5}}
mixture:
  - {{kind: line, max_tiles: 6}}
model:
  pyramid: {{tile_px: 28, detail: [1, 4], adaptive: null, max_upscale: 0.5, fit: pad}}
  vision_config:
    {{image_size: 28, patch_size: 7, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 24}}
  text_config: {{model_type: qwen2, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2,
    intermediate_size: 24, max_position_embeddings: 512}}
  tie_word_embeddings: true
"""


@pytest.fixture(autouse=True)
def small_world(monkeypatch, tmp_path):
    """runs/ in a folder of the test's."""
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)


def recipe(tmp_path, stage="read", steps=6):
    path = tmp_path / f"{stage}-{steps}.yaml"
    path.write_text(RECIPE.format(stage=stage, steps=steps))
    return path


def weights(folder):
    return load_file(folder / "model.safetensors") | load_file(folder / "characters_head.st")


def crash():
    raise AssertionError("a mistake of ours")


def interrupt():
    signal.raise_signal(signal.SIGINT)


def terminate():
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("cut", [interrupt, terminate, crash])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch, interruptible, cut):
    """An interrupt leaves a checkpoint of its own; without one the run goes back to the last."""
    whole = weights(train(recipe(tmp_path), ["name=whole"]))
    original = batches.Batches.__getitem__

    def cut_off(self, number):
        if number == 4:
            cut()
        return original(self, number)

    monkeypatch.setattr(batches.Batches, "__getitem__", cut_off)
    crashed = cut is crash
    with pytest.raises(AssertionError if crashed else KeyboardInterrupt):
        train(recipe(tmp_path), ["name=parts", "checkpoint_minutes=" + ("0" if crashed else "9")])
    assert json.loads((tmp_path / "runs" / "parts" / f"checkpoint-0000000{4 if crashed else 5}" / "progress.json").read_text())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(batches.Batches, "__getitem__", original)
    parts = train(recipe(tmp_path), ["name=parts"])
    assert parts.name == "checkpoint-00000006"
    resumed = weights(parts)
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, None])
def test_a_signal_that_is_ignored_or_handled_elsewhere_is_left_alone(tmp_path, monkeypatch, interruptible, handler):
    """As under nohup: the run goes on, and goes on ignoring it. None is a handler of a program that Python is a part of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if handler is None:
        monkeypatch.setattr(signal, "getsignal", lambda number: None)
    original = batches.Batches.__getitem__
    monkeypatch.setattr(batches.Batches, "__getitem__", lambda self, number: interrupt() or original(self, number))
    assert train(recipe(tmp_path)).name == "checkpoint-00000006"
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_run_in_another_thread_leaves_signals_to_the_main_one(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, recipe(tmp_path)).result().name == "checkpoint-00000006"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_of_so_many_minutes_goes_on_next_time(tmp_path):
    whole = weights(train(recipe(tmp_path), ["name=whole"]))
    nowhere = tmp_path / "published"
    short = ["name=parts", "max_minutes=1e-9", f"publish={nowhere}"]
    assert [train(recipe(tmp_path), short).name for _ in range(3)] == [f"checkpoint-{step:08d}" for step in (1, 2, 3)]
    assert not list(nowhere.iterdir()), "what isn't finished isn't published"
    parts = weights(train(recipe(tmp_path), ["name=parts"]))
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    with pytest.raises(UsageError, match="max_minutes=0.0: expected a number above 0"):
        train(recipe(tmp_path), ["name=none", "max_minutes=0"])


def test_several_ranks_are_refused(tmp_path, monkeypatch):
    """As under torchrun or `accelerate launch`: each would see all batches and write all checkpoints."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were started, but this training runs in one"):
        train(recipe(tmp_path))


def test_a_batch_that_does_not_fit_costs_no_step(tmp_path, monkeypatch):
    whole = weights(train(recipe(tmp_path), ["name=whole"]))
    original = Losses.forward
    calls = iter(range(99))

    def forward(self, batch):
        return original(self, {"tiles": torch.empty(2**60)} if next(calls) == 4 else batch)

    monkeypatch.setattr(Losses, "forward", forward)
    with pytest.raises(ShortOfMemoryError, match=r"^out of memory while training, .*: lower tiles_per_batch, or max_tiles of"):
        train(recipe(tmp_path), ["name=broken", "checkpoint_minutes=9"])
    monkeypatch.setattr(Losses, "forward", original)
    assert (tmp_path / "runs" / "broken" / "checkpoint-00000004").exists()
    resumed = weights(train(recipe(tmp_path), ["name=broken"]))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_run_whose_first_step_fails_keeps_nothing_and_a_resumed_one_what_it_had(tmp_path, monkeypatch):
    """A checkpoint of step 0 would hide a mended `start`; one that is written anew could be lost on a full disk."""
    original, too_much = Losses.forward, lambda *_: torch.empty(2**60)
    monkeypatch.setattr(Losses, "forward", too_much)
    with pytest.raises(ShortOfMemoryError):
        train(recipe(tmp_path), ["name=broken"])
    assert not list((tmp_path / "runs" / "broken").glob("checkpoint-*"))
    monkeypatch.setattr(Losses, "forward", original)
    kept = train(recipe(tmp_path, steps=3), ["name=kept"]) / "progress.json"
    before = kept.stat()
    monkeypatch.setattr(Losses, "forward", too_much)
    with pytest.raises(ShortOfMemoryError):
        train(recipe(tmp_path), ["name=kept"])
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


FAR_TOO_MUCH = ["optimizer.adamw_lr=1e30", "optimizer.warmup_steps=0", "checkpoint_minutes=0", "log_every=1"]


def is_sound(folder) -> bool:
    return all(bool(tensor.isfinite().all()) and float(tensor.abs().max()) < 1e3 for tensor in weights(folder).values())


def test_a_run_that_goes_astray_keeps_its_good_checkpoints(tmp_path):
    """Updates so large that the next loss isn't finite: the step is named, neither checkpoints nor the published folder change."""
    published = tmp_path / "published"
    train(recipe(tmp_path, steps=3), ["name=astray", "checkpoint_minutes=0"])
    folder = tmp_path / "runs" / "astray"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("checkpoint-*/*")}
    with pytest.raises(UsageError, match=r"^step 4: the loss after the update is nan, so nothing of this step is kept"):
        train(recipe(tmp_path, steps=6), ["name=astray", f"publish={published}", *FAR_TOO_MUCH])
    found = sorted(folder.glob("checkpoint-*"))
    assert [path.name for path in found] == ["checkpoint-00000002", "checkpoint-00000003"]
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("checkpoint-*/*")} == before
    assert all(map(is_sound, found))
    assert not list(published.iterdir())
    assert is_sound(train(recipe(tmp_path), ["name=astray"]))


@pytest.mark.parametrize("steps", [1, 6], ids=["at the end", "on the way"])
def test_a_run_that_goes_astray_leaves_nothing_where_nothing_was(tmp_path, steps):
    with pytest.raises(UsageError, match="^step 1: the loss after the update is nan"):
        train(recipe(tmp_path, steps=steps), ["name=new", f"publish={tmp_path / 'published'}", *FAR_TOO_MUCH])
    assert not list((tmp_path / "runs" / "new").glob("checkpoint-*"))
    assert not list((tmp_path / "published").iterdir())
    with pytest.raises(UsageError, match="^step 2: the loss is nan"):
        train(recipe(tmp_path, steps=6), ["name=later", *FAR_TOO_MUCH, "checkpoint_minutes=9"])
    assert not list((tmp_path / "runs" / "later").glob("checkpoint-*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_loss_that_is_not_finite_costs_that_step_alone(tmp_path, monkeypatch, value):
    whole = weights(train(recipe(tmp_path), ["name=whole"]))
    original, calls = Losses.forward, iter(range(99))

    def forward(self, batch):
        loss, figures = original(self, batch)
        return (loss * value if next(calls) == 4 else loss), figures

    monkeypatch.setattr(Losses, "forward", forward)
    with pytest.raises(UsageError, match=f"^step 5: the loss is {value}, so nothing of this step is kept"):
        train(recipe(tmp_path), ["name=broken", "checkpoint_minutes=9"])
    monkeypatch.setattr(Losses, "forward", original)
    resumed = weights(train(recipe(tmp_path), ["name=broken"]))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_picture_that_cannot_be_drawn_costs_no_step_and_leaves_no_worker(tmp_path, monkeypatch):
    """Workers don't listen to the signal that ends children: one that was left waiting would keep the program from ending."""
    original = batches.Batches.__getitem__

    def broken(self, number):
        if number == 4:
            raise IndexError("no such typeface")
        return original(self, number)

    monkeypatch.setattr(batches.Batches, "__getitem__", broken)
    with pytest.raises(IndexError, match="no such typeface"):
        train(recipe(tmp_path), ["name=broken", "workers=1", "checkpoint_minutes=9"])
    assert json.loads((tmp_path / "runs" / "broken" / "checkpoint-00000004" / "progress.json").read_text())["step"] == 4
    assert not multiprocessing.active_children()


TRAINING = """
import sys
from pathlib import Path
from minimonkey.synthetic.rendering import lines
from minimonkey.synthetic.material import typefaces, words
from minimonkey.training.nano import batches
from minimonkey.training.nano.losses import Losses
from minimonkey.training.nano.run import train

try:
    train(Path(sys.argv[1]), ["workers=1"])
except KeyboardInterrupt:
    sys.exit(130)
"""
"""A run as a program of its own: forking this process, whose torch has threads, would lock the child up."""


@pytest.mark.parametrize("trap", ["-", "''"], ids=["heard", "ignored"])
def test_a_signal_to_the_whole_group_leaves_a_checkpoint(tmp_path, trap):
    """Ctrl-C in a terminal reaches the workers too: they mustn't take the run down before it is saved. With Ctrl-C ignored from the
    beginning, as in a background job, SIGTERM ends the run just so."""
    whole, log = recipe(tmp_path, steps=100000), tmp_path / "runs" / "small" / "log.jsonl"
    words = ["sh", "-c", f'trap {trap} INT; exec "$@"', "sh", sys.executable, "-c", TRAINING, str(whole)]
    with subprocess.Popen(words, start_new_session=True, cwd=tmp_path) as process:
        deadline = time.monotonic() + 100
        while not log.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        with pytest.raises(UsageError, match="another process trains in it"):
            train(whole)
        if trap == "''":
            os.killpg(process.pid, signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
        os.killpg(process.pid, signal.SIGTERM)
        try:
            assert process.wait(60) == 130
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert len(list(log.parent.glob("checkpoint-*/progress.json"))) == 1


def test_a_run_that_promises_a_figure_does_not_begin_without_all_typefaces(tmp_path, monkeypatch):
    lobster = next(typeface for typeface in catalogue() if typeface.family == "Lobster Two")
    monkeypatch.setattr(choice, "incomplete", lambda split: [lobster])
    monkeypatch.setattr(batches, "material", choice.material.__wrapped__)
    with pytest.raises(DataError, match=r"1 typeface.* train split .* apt-get install .*fonts-lobster fonts-lobstertwo"):
        train(recipe(tmp_path), ["material=all"])
    assert not list((tmp_path / "runs" / "small").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mixture=[{kind: sentence}]", "unknown kind of sample 'sentence'"),
        ("model.vision_config.hiden_size=3", "unknown keys for internvl_vision: hiden_size"),
        ("model.vision_config.num_attention_heads=5", "no model can be made of the recipe's `model`"),
        ("model.vision_config=3", "no model can be made of the recipe's `model`"),
        ("model.text_config.model_type=nope", "no model can be made of the recipe's `model`"),
        ("model.pyramid.tile_px=56", "tiles of another size"),
        ("material=some", "material='some': expected one of 'package', 'available', 'all'"),
        ("publish=/dev/null/run", "publish='/dev/null/run': can't make that folder: Not a directory"),
    ],
)
def test_a_wrong_recipe_is_one_line_before_the_first_step(tmp_path, capsys, override, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        train(recipe(tmp_path), ["workers=1", override])
    assert "step/s" not in capsys.readouterr().err


def test_the_folder_of_a_run(tmp_path):
    last = train(recipe(tmp_path), ["checkpoint_minutes=0", "evaluate_every=3"])
    folder = tmp_path / "runs" / "small"
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-00000005", "checkpoint-00000006"]
    assert not (folder / "partial").exists()
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 3, 4, 6, 6]
    assert all("held_out_cer" in line for line in (log[1], log[4]))
    assert {"loss", "text_loss", "next_right", "tiles", "lr_factor"} <= log[0].keys()
    assert json.loads((last / "progress.json").read_text())["step"] == 6
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 3


def test_a_stage_starts_from_another(tmp_path):
    first = weights(train(recipe(tmp_path, "characters", 4), ["name=first"]))
    second = weights(train(recipe(tmp_path), ["name=second", "start=runs/first", "steps=1", "optimizer.warmup_steps=1000000"]))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["internvl2-qwen2-56", "minimonkey-internlm2-56"])
def test_a_stage_starts_from_a_published_folder(tmp_path, golden, name):
    """Its weights become ours one by one, as in `load()`; nothing of transformers' default size is made."""
    start = [f"start={golden / name}", "mixture=[{kind: line, max_tiles: 30}]", "tiles_per_batch=30"]
    last = train(recipe(tmp_path, "characters", 1), ["name=published", "optimizer.warmup_steps=1000000", *start])
    trained, given = (minimonkey.load(folder, device="cpu").model.state_dict() for folder in (last, golden / name))
    assert trained.keys() == given.keys()
    for key, tensor in given.items():
        torch.testing.assert_close(trained[key], tensor, rtol=0, atol=1e-4)


def test_accelerate_chooses_the_device(tmp_path, monkeypatch):
    """An Apple or Intel GPU as well as one of CUDA."""
    asked = []
    monkeypatch.setattr(trainer, "Accelerator", lambda **settings: asked.append(settings) or Accelerator(**settings))
    train(recipe(tmp_path, "characters", 1))
    assert asked == [{"mixed_precision": "no"}]


def test_a_folder_that_does_not_fit_is_one_line(tmp_path):
    train(recipe(tmp_path, "characters", 1))
    with pytest.raises(CheckpointError, match="checkpoint-00000001: its model has another shape than the recipe's"):
        train(recipe(tmp_path, "characters", 2), ["model.vision_config.num_hidden_layers=2"])
    with pytest.raises(CheckpointError, match="runs/gone"):
        train(recipe(tmp_path), ["name=third", "start=runs/gone"])


def test_a_character_head_of_another_version_is_one_line(tmp_path):
    folder = train(recipe(tmp_path, "characters", 1))
    save_file(
        {name: tensor[:1].clone() for name, tensor in load_file(folder / "characters_head.st").items()},
        folder / "characters_head.st",
    )
    with pytest.raises(CheckpointError, match=r"characters_head\.st: has another shape .*; remove it") as caught:
        train(recipe(tmp_path, "characters", 2))
    assert "\n" not in str(caught.value)


def test_a_published_model_can_be_asked(tmp_path):
    train(recipe(tmp_path), ["publish=out"])
    vlm = minimonkey.load(tmp_path / "out")
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / "out" / "model.safetensors").values())
    answer = vlm.ask(batches.make_sample(1, "line").picture, "Read the text.", max_new_tokens=3)
    assert len(answer.token_ids) <= 3 and answer.image_tokens == 4 * answer.pyramids[0].tile_count
    assert answer.pyramids[0].spec.fit == "pad"
    digest, name = (tmp_path / "out" / "checksum").read_text().split()
    assert len(digest) == 64 and name == "model.safetensors"


def test_a_run_can_change_the_pyramid_that_it_publishes(tmp_path):
    from minimonkey.checkpoints.folder import find_folder
    from minimonkey.checkpoints.load import load_processor

    train(recipe(tmp_path, steps=1), ["name=first"])
    train(recipe(tmp_path, steps=1), ["name=second", "start=runs/first", "pyramid={detail: [1, 2]}", "publish=out"])
    folder = find_folder(tmp_path / "out")
    config = folder.config("native")
    spec = load_processor(folder, config).image_processor.spec
    assert (spec.detail, spec.fit, spec.tile_px) == ((1, 2), "pad", 28)
    assert tuple(config.pyramid["detail"]) == (1, 2), "it was trained with it"


def test_a_run_that_inserts_a_layer_goes_on_with_it(tmp_path):
    path = recipe(tmp_path, steps=2)
    path.write_text(
        path.read_text().replace(
            "hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key",
            "hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, num_key",
        )
    )
    first = train(path)
    grown = ["name=grown", f"start={first.parent}", "insert_layer=1"]
    train(path, [*grown, "steps=1"])
    last = train(path, [*grown, "steps=2"])
    assert json.loads((last / "config.json").read_text())["text_config"]["num_hidden_layers"] == 3
    log = [json.loads(line) for line in (last.parent / "log.jsonl").read_text().splitlines()]
    assert json.loads((last / "progress.json").read_text())["step"] == 2 and log[-1]["step"] == 2


def test_surgery_is_done_once_and_a_resume_goes_on_from_it(tmp_path):
    path = recipe(tmp_path, steps=2)
    few, more = (f"hidden_size: 16, num_hidden_layers: {layers}, num_attention_heads: 2, num_key" for layers in (1, 4))
    path.write_text(path.read_text().replace(few, more).replace("characters_weight: 0.5", "attention_losses: {place: 0.3}"))
    first = train(path)
    rope = "{rope_type: llama3, factor: 1e6, low_freq_factor: 1.0, high_freq_factor: 2.0, original_max_position_embeddings: 200}"
    changed = ["name=changed", f"start={first.parent}", "position_codes=1", "match_tile_rows=0.6", f"rope={rope}"]
    train(path, [*changed, "steps=1"])
    cut = train(path, [*changed, "steps=2"])
    whole = train(path, [*changed, "name=whole", "steps=2"])
    cut_weights, whole_weights = weights(cut), weights(whole)
    assert all(torch.equal(cut_weights[name], whole_weights[name]) for name in whole_weights)
    assert json.loads((cut / "config.json").read_text())["text_config"]["rope_parameters"]["rope_type"] == "llama3"
    (name,) = (name for name in whole_weights if name.endswith("layers.3.self_attn.q_proj.weight"))
    matched, before = (load_file(folder / "model.safetensors")[name] for folder in (whole, first))
    assert (matched - before)[-8:].abs().max() > 0.1 > (matched - before)[:-8].abs().max(), "the last head, and no other"
    (first / "places_head.st").unlink()
    with pytest.raises(UsageError, match="match_tile_rows needs a run with a places head to start from; .* has no places_head.st"):
        train(path, [*changed, "name=headless"])


@pytest.mark.parametrize(("before", "now", "name"), [("0.02", "0", "Muon"), ("0", "0.02", "AdamW")])
def test_a_run_keeps_the_optimizer_that_it_began_with(tmp_path, before, now, name):
    train(recipe(tmp_path, steps=2), [f"optimizer.muon_lr={before}"])
    words = rf"^optimizer.muon_lr={float(now)}: the run began with {name} for \S+; resume with the former muon_lr, or give this run"
    with pytest.raises(UsageError, match=words):
        train(recipe(tmp_path), [f"optimizer.muon_lr={now}"])
    assert train(recipe(tmp_path), [f"optimizer.muon_lr={before}"]).name == "checkpoint-00000006"


def test_what_is_learnt_only_now_has_no_memory_yet(tmp_path):
    train(recipe(tmp_path, steps=2), ["optimizer.lr_multipliers={model.model.language_model: 0}"])
    assert train(recipe(tmp_path)).name == "checkpoint-00000006"


def test_a_run_keeps_the_material_that_it_began_with(tmp_path):
    """A seed draws other samples with other material. A run without a checkpoint may begin with any."""
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text('{"material": "all"}')
    train(recipe(tmp_path, steps=2))
    assert json.loads((folder / "recipe.json").read_text())["material"] == "package"
    with pytest.raises(UsageError, match=r"^material='available': .*runs/small began with 'package', .*; resume with material="):
        train(recipe(tmp_path), ["material=available"])
    assert json.loads((folder / "recipe.json").read_text())["material"] == "package", "as the run has it"
    (folder / "recipe.json").write_text("[]")
    with pytest.raises(UsageError, match="recipe.json is no recipe as runs write it"):
        train(recipe(tmp_path))
    (folder / "recipe.json").unlink()
    assert train(recipe(tmp_path)).name == "checkpoint-00000006"
