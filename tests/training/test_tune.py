"""From a recipe and rows to a tuned model: what learns, what stays, what is left out, and what comes of it."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import minimonkey
from minimonkey.checkpoints.folder import find_folder
from minimonkey.data.encoding import NOT_LEARNT
from minimonkey.errors import CheckpointError, DataError, UsageError
from minimonkey.training.batches import Batches, Place, TrainingRows
from minimonkey.training.loop import checkpoints
from minimonkey.training.objective import AnswerLoss
from minimonkey.training.parameters import part_of
from minimonkey.training.run import run_tuning
from minimonkey.training.tune import open_mixture, open_model

FROZEN = {"train": False}
LORA = {"lora": {"rank": 2, "dropout": 0.0}}
QUESTION = "Which number?"


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def log(folder, key="loss"):
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text("utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


def batches_of(recipe, **processes):
    processor = open_model(find_folder(recipe.model), recipe)[1]
    return Batches(TrainingRows(open_mixture(recipe), processor, recipe), **processes)


def changed_parts(folder):
    before, after = weights("model"), weights(folder)
    assert before.keys() == after.keys()
    return {part_of(name) for name in before if not torch.equal(before[name], after[name])}


def test_from_a_recipe_to_a_model_that_answers(tuning):
    recipe = tuning(steps=12, batch_rows=9, optimizer={"rate": 1e-2, "schedule": "constant"})
    tuned = run_tuning(recipe)
    assert tuned == Path("runs/tiny/tuned") and changed_parts(tuned) == {"vision", "projector", "language"}
    losses = log("runs/tiny")
    assert len(losses) == 12 and sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert isinstance(minimonkey.load(tuned).ask("images/1.png", QUESTION, max_new_tokens=3).text, str)
    assert sorted(path.name for path in Path("runs/tiny").iterdir()) == [
        "checkpoint-00000012", "lock", "log.jsonl", "recipe.json", "tuned"
    ]  # fmt: skip
    before = (tuned / "model.safetensors").stat().st_mtime_ns
    assert run_tuning(recipe) == tuned, "the same call again has nothing to do"
    assert len(log("runs/tiny")) == 12 and (tuned / "model.safetensors").stat().st_mtime_ns >= before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stage": "align"}, {"projector"}),
        ({"stage": "mini-monkey"}, {"language"}),
        ({"parts": {"vision": {"rate": 0.0}, "language": FROZEN}}, {"projector"}),
        ({"parts": {"projector": FROZEN, "language": FROZEN}, "gradient_checkpointing": True}, {"vision"}),
    ],
)
def test_what_is_frozen_stays_bit_for_bit(tuning, changes, expected):
    optimizer = {"rate": 1e-2, "weight_decay": 0.0}
    assert changed_parts(run_tuning(tuning(steps=2, optimizer=optimizer, **changes))) == expected


ADAPTED = {
    "language": {"vision": FROZEN, "projector": FROZEN, "language": LORA},
    "vision": {"vision": LORA, "projector": FROZEN, "language": FROZEN},
    "both": {"vision": LORA, "projector": FROZEN, "language": {"lora": {"rank": 3, "alpha": 3, "dropout": 0.0}}},
    "both, projector whole": {"vision": LORA, "projector": {}, "language": LORA},
    "shared": {"vision": {"lora": LORA["lora"] | {"share_query_key_value": True}}, "projector": FROZEN, "language": LORA},
}


def token_logits(vlm):
    inputs = vlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "path": "images/3.png"}, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        return vlm.model(**inputs).logits


@pytest.mark.parametrize("parts", ADAPTED.values(), ids=ADAPTED)
def test_adapters_beside_the_base_answer_as_those_that_are_merged(tuning, parts):
    recipe = {"steps": 3, "parts": parts, "optimizer": {"rate": 1e-2}, "pyramid": {"detail": (1, 6)}}
    adapter = run_tuning(tuning(**recipe))
    merged = run_tuning(tuning(**recipe, out="merged", merge=True))
    assert (adapter / "adapter_model.safetensors").exists() and not (adapter / "model.safetensors").exists()
    found = {name: minimonkey.load(*where, **how) for name, where, how in [
        ("adapters", ["model"], {"adapter": adapter}), ("merged", [merged], {}), ("base by itself", [], {"adapter": adapter}),
    ]}  # fmt: skip
    logits = {name: token_logits(vlm) for name, vlm in found.items()}
    for name in logits:
        assert torch.allclose(logits[name], logits["merged"], atol=2e-4), name
    assert not torch.allclose(logits["merged"], token_logits(minimonkey.load("model", pyramid={"detail": (1, 6)})), atol=1e-2)
    assert {vlm.processor.image_processor.spec.detail for vlm in found.values()} == {(1, 6)}
    assert changed_parts(merged) == {name for name, part in parts.items() if part != FROZEN}
    answers = [vlm.ask("images/3.png", QUESTION, max_new_tokens=4).text for vlm in found.values()]
    assert len(set(answers)) == 1


def test_adapters_over_a_base_in_four_bits(tuning):
    """QLoRA: what learns are the adapters; merged they stand in the weights as they were before quantization."""
    pytest.importorskip("bitsandbytes")
    recipe = {"steps": 2, "parts": ADAPTED["both"], "optimizer": {"rate": 1e-2}}
    adapter = run_tuning(tuning(**recipe, quantize_base="int4", out="four"))
    run_tuning(tuning(**recipe, out="whole"))
    assert log("four") == pytest.approx(log("whole"), rel=0.05) and log("four") != log("whole")
    assert minimonkey.load("model", adapter=adapter, quantize="int4").ask("images/1.png", QUESTION, max_new_tokens=2).text
    merged = run_tuning(tuning(**recipe, quantize_base="int4", merge=True, out="merged"))
    assert changed_parts(merged) == {"vision", "language"}
    assert torch.allclose(token_logits(minimonkey.load("model", adapter=adapter)), token_logits(minimonkey.load(merged)), atol=2e-4)


def test_an_adapter_for_another_model_is_one_line(tuning, tiny_model):
    adapter = run_tuning(tuning(steps=1, stage="lora"))
    for name, other in {"other": tiny_model(seed=1), "longer": tiny_model(max_position_embeddings=2048)}.items():
        other.save_pretrained(name)
        for file in Path("model").glob("*"):
            if not (Path(name) / file.name).exists():
                (Path(name) / file.name).write_bytes(file.read_bytes())
    assert minimonkey.load("longer", adapter=adapter), "the same weights in another folder"
    assert minimonkey.load("longer", adapter=adapter, dtype="bfloat16")
    assert minimonkey.load("longer", adapter=adapter, dtype="float16")
    with pytest.raises(CheckpointError, match=rf"adapter {adapter}: was trained on .*/model, which this model isn't; load it with"):
        minimonkey.load("other", adapter=adapter)
    (adapter / "base.json").unlink()
    assert minimonkey.load("other", adapter=adapter), "nobody knows"
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": r".*layers\.0.*q_proj"}))
    with pytest.raises(CheckpointError, match="is of another model: its layers aren't those of this one"):
        minimonkey.load("model", adapter=adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": {}, "r": 3}))
    with pytest.raises(CheckpointError, match="broken, or of another model"):
        minimonkey.load("model", adapter=adapter)
    with pytest.raises(CheckpointError, match=r"adapter nowhere: expected a folder with adapter_config.json and"):
        minimonkey.load("model", adapter="nowhere")


def test_packed_rows_are_learnt_as_padded_ones(tuning):
    padded = tuning(batch_rows=9, steps=2, group_by_length=False, out="padded")
    packed = tuning(batch_rows=1, steps=2, out="packed", packing={"max_tokens": 4096, "max_tiles": 64})
    assert len(batches_of(packed).plan(0)[0]) > 6
    run_tuning(packed)
    objective, numbers = AnswerLoss(open_model(find_folder("model"), padded)[0]), [*range(9)]
    batches = [batches_of(recipe).rows[numbers].batch for recipe in (padded, packed)]
    with torch.no_grad():
        losses = [objective(batch).item() for batch in batches]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and "cu_seqlens" in batches[1]
    assert len(log("packed")) == 2


def test_accumulated_batches_make_one_step(tuning):
    whole = run_tuning(tuning(batch_rows=4, steps=2, out="whole", optimizer={"rate": 1e-3, "warmup_fraction": 0.0}))
    parts = run_tuning(tuning(batch_rows=1, accumulate=4, steps=2, out="parts", optimizer={"rate": 1e-3, "warmup_fraction": 0.0}))
    assert log("whole") == pytest.approx(log("parts"), rel=1e-4)
    assert log("whole", "gradient_norm")[0] == pytest.approx(log("parts", "gradient_norm")[0], rel=1e-4)
    assert weights(whole).keys() == weights(parts).keys()


@pytest.mark.parametrize("changes", [{"group_by_length": True}, {"group_by_length": False}, {"packing": {"max_tokens": 300}}])
def test_a_plan_has_every_row_once_an_epoch_and_processes_share_it(tuning, changes):
    alone = batches_of(tuning(accumulate=2, **changes))
    plan = alone.plan(0)
    counted = sorted(number for batch in plan for number in batch)
    assert set(counted) == set(range(alone.window_rows)) and len(plan) % 2 == 0
    shared = [batches_of(tuning(**changes), rank=rank, ranks=2) for rank in (0, 1)]
    assert all(each.plan(0) == plan for each in shared)
    turns = [each.turn_by_turn(Place()) for each in (alone, *shared)]
    for _ in range(2 * len(plan) // 2):
        one = [next(turns[0]), next(turns[0])]
        assert [batch for _, batch in one] == [next(turn)[1] for turn in turns[1:]]
        assert one[0][0] == one[1][0], "both are behind the same step"


def test_rows_of_alike_length_share_a_batch(tuning):
    grouped, mixed = (batches_of(tuning(group_by_length=grouped, batch_rows=3)) for grouped in (True, False))

    def padding(batches):
        lengths = [[batches.rows.lengths(number).tokens for number in batch] for batch in batches.plan(0)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in lengths)

    assert padding(grouped) < 0.7 * padding(mixed)


def test_epochs_are_steps(tuning):
    assert batches_of(tuning(batch_rows=2)).steps_per_epoch() == 4
    assert batches_of(tuning(batch_rows=1, accumulate=3)).steps_per_epoch() == 3
    assert batches_of(tuning(), ranks=2).steps_per_epoch() == 2
    packed = batches_of(tuning(packing={"max_tokens": 150}))
    assert packed.steps_per_epoch() == pytest.approx(len(packed.plan(0)) * 9 / packed.window_rows, abs=1)
    run_tuning(tuning(steps=None, epochs=0.5, out="half"))
    assert len(log("half")) == 2


def test_gradient_checkpointing_changes_no_gradient(tuning):
    for name, again in (("kept", False), ("again", True)):
        run_tuning(tuning(steps=3, out=name, gradient_checkpointing=again, drop_path=0.3))
    assert log("kept", "gradient_norm") == pytest.approx(log("again", "gradient_norm"), rel=1e-6)
    assert log("kept") == pytest.approx(log("again"), rel=1e-6)


def test_weights_in_bfloat16(tuning):
    tuned = run_tuning(tuning(steps=2, dtype="bfloat16", optimizer={"rate": 1e-2}))
    assert {tensor.dtype for tensor in weights(tuned).values()} == {torch.bfloat16}
    assert {tensor.dtype for name, tensor in load_file(checkpoints(tuned.parent)[0] / "trained.safetensors").items()} == {
        torch.bfloat16
    }


def test_float32_weights_with_computation_in_bfloat16(tuning):
    tuned = run_tuning(tuning(steps=2, mixed_precision="bf16"))
    assert {tensor.dtype for tensor in weights(tuned).values()} == {torch.float32}
    run_tuning(tuning(steps=2, out="whole"))
    assert log("runs/tiny") == pytest.approx(log("whole"), rel=0.05) and log("runs/tiny") != log("whole")


# -- rows ------------------------------------------------------------------------------------------------------------------------


def spoil(rows: dict[int, str]):
    lines = Path("rows.jsonl").read_text("utf-8").splitlines()
    for number, line in rows.items():
        lines[number] = line
    Path("rows.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def cut_short(picture):
    """Its size can be read, its pixels can't."""
    path = Path("images") / picture
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_row_stops_with_file_and_line(tuning, workers):
    spoil({6: '{"image": "nowhere.png", "conversations": []}'})
    with pytest.raises(DataError, match=r"^\S*rows\.jsonl, line 7: [^\n]+$"):
        run_tuning(tuning(workers=workers))
    spoil({6: '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}'})
    cut_short("3.png")
    with pytest.raises(DataError, match=r"^\S*rows\.jsonl, line 4: [^\n]+$"):
        run_tuning(tuning(workers=workers))


@pytest.mark.parametrize("changes", [{"workers": 0}, {"workers": 1, "packing": {"max_tokens": 300}}])
def test_bad_rows_that_are_skipped_are_listed_once(tuning, changes):
    spoil({6: '{"image": "nowhere.png", "conversations": []}', 7: "{"})
    cut_short("3.png")
    recipe = tuning(data={"rows": "rows.jsonl", "images": "images", "bad_rows": "skip"}, steps=8, **changes)
    run_tuning(recipe)
    told = [json.loads(line) for line in Path("runs/tiny/skipped.jsonl").read_text("utf-8").splitlines()]
    lines = sorted(int(re.search(r"line (\d+)", each["error"])[1]) for each in told)
    assert lines == [4, 7, 8] and all(each["kind"] for each in told)


def test_nothing_but_bad_rows_is_one_line(tuning):
    spoil(dict.fromkeys(range(9), "{"))
    with pytest.raises(DataError, match=r"^10 rows in a row can't be used; runs/tiny/skipped.jsonl says why$"):
        run_tuning(tuning(data={"rows": "rows.jsonl", "bad_rows": "skip"}))


def test_a_step_of_rows_that_cannot_be_decoded_learns_nothing(tuning):
    for number in range(9):
        cut_short(f"{number}.png")
    batches = batches_of(tuning(data={"rows": "rows.jsonl", "images": "images", "bad_rows": "skip"}))
    batch, errors = batches.rows[[0, 1]]
    assert len(errors) == 2 and (batch["labels"] == NOT_LEARNT).all()


def test_rows_that_are_too_long_are_named(tuning):
    with pytest.raises(
        DataError, match=r"rows.jsonl, line \d: \d+ tokens with \d tiles are more than max_tokens=40: lower the pyr"
    ):
        run_tuning(tuning(max_tokens=40))
    with pytest.raises(DataError, match=r"rows.jsonl, line \d: .* don't fit a packed row of 400 tokens and 2 tiles: lower"):
        run_tuning(tuning(packing={"max_tokens": 400, "max_tiles": 2}))


def test_rows_of_json_parquet_and_a_mixture(tuning):
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text("utf-8").splitlines()]
    Path("rows.json").write_text(json.dumps(rows), "utf-8")
    run_tuning(tuning(steps=2, out="lines"))
    run_tuning(tuning(steps=2, out="list", data={"rows": "rows.json", "images": "images"}))
    assert log("list") == log("lines")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    inside = [row | {"image": {"bytes": (Path("images") / row["image"]).read_bytes()}} if "image" in row else row for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(inside), "rows.parquet")
    run_tuning(tuning(steps=2, out="table", data={"rows": "rows.parquet"}))
    assert log("table") == log("lines")
    Path("mixture.yaml").write_text(
        "name: two\nsets:\n  - {name: a, rows: rows.jsonl, images: images, repeat: 2, max_tiles: 1}\n"
        "  - {name: b, rows: rows.json, images: images}\n"
    )
    mixture = tuning(steps=2, out="two", data={"mixture": "mixture.yaml", "root": "."})
    run_tuning(mixture)
    assert len(open_mixture(mixture)) == 27 and len(log("two")) == 2


# -- recipes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"rate": 1e30}}, "rate=1e+30: expected a rate from 0 to 1"),
        ({"stpes": 3}, "unknown key 'stpes'; the nearest is 'steps'"),
        ({"merge": True}, "merge puts adapters into the weights, but no part has a `lora`"),
        ({"trackers": ["wandb"]}, "tracker wandb needs wandb: pip install 'minimonkey[wandb]'"),
        ({"model": "nowhere"}, "nowhere: no folder of this name here"),
        ({"data": {"rows": "nowhere.jsonl"}}, "nowhere.jsonl: No such file or directory"),
        ({"quantize_base": "int4"}, "give each trained part a `lora`"),
    ],
)
def test_what_cannot_be_is_one_line(tuning, monkeypatch, changes, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None) if "trackers" in changes else None
    with pytest.raises((UsageError, CheckpointError, DataError, ImportError), match=re.escape(message)) as caught:
        run_tuning(tuning(**changes))
    assert "\n" not in str(caught.value)


def test_kept_features_train_as_pixels_do(tuning, monkeypatch):
    """The same losses; from the second time on that a picture comes, the encoder isn't asked."""
    from minimonkey.training import tune as module

    encoded, calls = module.encoded, []
    monkeypatch.setattr(module, "encoded", lambda network, pixels: calls.append(len(pixels)) or encoded(network, pixels))
    settings = {"stage": "mini-monkey", "steps": 20, "batch_rows": 2}
    run_tuning(tuning(**settings))
    kept = run_tuning(tuning(**settings, out="kept", cache_features=True))
    assert torch.allclose(torch.tensor(log("kept")), torch.tensor(log("runs/tiny")), atol=1e-4)
    assert len(list((kept.parent / "features").glob("*.safetensors"))) == 8
    assert 0 < len(calls) < 14
    with pytest.raises(UsageError, match="leave drop_path and sharding out"):
        tuning(stage="mini-monkey", cache_features=True, drop_path=0.1)
