"""Batches as published, but for padding: theirs is whatever has id 0."""

import json

import pytest
import torch
from safetensors.torch import load_file

import minimonkey
from minimonkey.data.collation import collate
from minimonkey.data.conversation import Conversation
from minimonkey.data.encoding import encode
from minimonkey.data.published import published_example
from minimonkey.errors import UsageError
from tests.data.published import GOLDEN, IMAGES, ROWS, settings_of, sha256_of_tiles

RECORDED = [(folder, code) for folder in ("internvl2-qwen2-56", "minimonkey-internlm2-56") for code in ("internvl", "minimonkey")]


@pytest.mark.parametrize(("checkpoint", "code"), RECORDED)
def test_batches_and_their_losses(checkpoint, code, golden):
    folder = golden / "training" / checkpoint
    batches = json.loads((folder / f"batches_{code}.json").read_text("utf-8"))["batches"]
    tensors = load_file(folder / f"batches_{code}.safetensors")
    model = minimonkey.load(golden / checkpoint, device="cpu", dtype="float32").model
    settings = {setting.name: setting for setting in settings_of(checkpoint, code)}
    for name, expected in batches.items():
        setting = settings[expected["config"]]
        made = setting.processor
        examples = [published_example(ROWS[row], made, images=IMAGES, pyramid=setting.spec) for row in expected["rows"]]
        batch = collate(examples, made, pad_to=expected["shape"][1])
        theirs = {key: tensors[f"{name}/{key}"].long() for key in ("input_ids", "labels", "attention_mask")}
        rows = batch["attention_mask"].bool()
        assert (batch["input_ids"][rows] == theirs["input_ids"][rows]).all()
        assert (batch["labels"] == theirs["labels"]).all()
        assert batch["attention_mask"].sum(1).tolist() == [len(example["input_ids"]) for example in examples]
        if flags := int(tensors[f"{name}/image_flags"].sum()):
            assert len(batch["pixel_values"]) == flags
            if flags == expected["pixel_values"]["shape"][0]:
                assert sha256_of_tiles(batch["pixel_values"], made.image_processor) == expected["pixel_values"]["sha256_u8"]
        with torch.no_grad():  # with their mask
            loss = model(**batch | {"input_ids": theirs["input_ids"], "attention_mask": theirs["attention_mask"]}).loss
        torch.testing.assert_close(loss, torch.tensor(expected["loss"]), rtol=1e-4, atol=1e-4)


@pytest.fixture
def examples():
    setting = next(settings_of("internvl2-qwen2-56", "internvl"))
    rows = [Conversation.of(ROWS[row], images=IMAGES) for row in ("single", "text_only", "list_two")]
    return setting.processor, [encode(row, setting.processor, pyramid=setting.spec) for row in rows]


def test_padding_is_known_by_its_place(examples):
    processor, rows = examples
    batch = collate(rows, processor)
    lengths = [len(row["input_ids"]) for row in rows]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert 0 in rows[1]["input_ids"]  # the "!" of its answer
    padded = ~batch["attention_mask"].bool()
    assert (batch["input_ids"][padded] == processor.tokenizer.pad_token_id).all()
    assert (batch["labels"][padded] == -100).all()
    assert batch["level_tiles"].shape == (3, 3)
    assert len(batch["pixel_values"]) == int(batch["level_tiles"].sum())


def test_loss_of_a_batch_is_the_mean_over_what_is_learnt(examples, golden):
    processor, rows = examples
    model = minimonkey.load(golden / "internvl2-qwen2-56", device="cpu", dtype="float32").model
    with torch.no_grad():
        alone = [model(**collate([row], processor)).loss for row in rows]
        whole = model(**collate(rows, processor)).loss
    learnt = torch.tensor([(row["labels"] != -100).sum() for row in rows])
    torch.testing.assert_close(whole, (torch.stack(alone) * learnt).sum() / learnt.sum(), rtol=1e-5, atol=1e-5)


def test_text_alone_has_no_tiles(examples):
    processor, rows = examples
    assert set(collate([rows[1]], processor)) == {"input_ids", "labels", "attention_mask"}


def test_nothing_and_too_much_are_refused(examples):
    processor, rows = examples
    with pytest.raises(UsageError, match="no examples"):
        collate([], processor)
    with pytest.raises(UsageError, match="more than pad_to=10"):
        collate(rows, processor, pad_to=10)
    assert GOLDEN.is_dir()
