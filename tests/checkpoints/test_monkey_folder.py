"""Monkey's published folder converted there and back, asked in every way, and broken in every way."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import minimonkey
from minimonkey.checkpoints.convert import convert
from minimonkey.errors import CheckpointError, PromptError, UsageError
from minimonkey.processing.monkey import MonkeyProcessor
from minimonkey.pyramid import Grid

NEW = {"max_new_tokens": 6, "min_new_tokens": 1}
QUESTION = "What is the color of the house?"


@pytest.fixture(scope="module")
def published(golden):
    return golden / "monkey" / "checkpoint"


@pytest.fixture(scope="module")
def vlm(published):
    return minimonkey.load(published, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def picture(golden):
    return Image.open(golden / "monkey" / "images" / "scene_a.png").convert("RGB")


@pytest.fixture
def copied(published, tmp_path):
    """Copy the folder, its config.json changed by `change(settings)`."""

    def make(change=lambda settings: None):
        shutil.copytree(published, tmp_path / "copy")
        settings = json.loads((tmp_path / "copy" / "config.json").read_text())
        change(settings)
        (tmp_path / "copy" / "config.json").write_text(json.dumps(settings))
        return tmp_path / "copy"

    return make


def test_there_and_back_shard_by_shard(published, tmp_path, vlm, picture):
    convert(published, tmp_path / "native", to="native", shard_bytes=500_000)
    assert len(list((tmp_path / "native").glob("model-*.safetensors"))) > 5
    native = minimonkey.load(tmp_path / "native", device="cpu", dtype="float32")
    ours, theirs = native.model.state_dict(), vlm.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert native.ask(picture, QUESTION, **NEW).token_ids == vlm.ask(picture, QUESTION, **NEW).token_ids
    convert(tmp_path / "native", tmp_path / "again", to="published")
    before, after = load_file(published / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    for file in published.iterdir():
        if file.suffix != ".safetensors":
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_no_stock_class(published, tmp_path):
    with pytest.raises(UsageError, match="transformers has no class for Monkey; convert it to native"):
        convert(published, tmp_path / "stock", to="stock")
    assert not (tmp_path / "stock").exists()


def test_open_pictures_answer_as_fresh_calls(vlm, picture):
    history = [(QUESTION, "red")]
    with vlm.open(picture) as page:
        assert page.ask(QUESTION, **NEW).token_ids == vlm.ask(picture, QUESTION, **NEW).token_ids
        chat = page.ask("And now?", history=history, **NEW)
    assert chat.token_ids == vlm.ask(picture, "And now?", history=history, **NEW).token_ids


def test_a_pyramid_on_monkeys_encoder(vlm, picture):
    """CIP's levels without any training, other windows, and what there is no adapter for."""
    levels = vlm.ask(picture, QUESTION, pyramid={"adaptive": (3, 7)}, **NEW).pyramids[0]
    assert (levels.detail.grid, levels.adaptive.grid, levels.tile_count) == (Grid(2, 2), Grid(3, 2), 11)
    tall = vlm.ask(picture, QUESTION, pyramid={"detail": (4, 4)}, **NEW).pyramids[0]
    assert tall.detail.grid.tiles == 4 and tall.spec.grid is None
    row = vlm.ask(picture, QUESTION, pyramid={"grid": (4, 1)}, **NEW).pyramids[0]
    assert row.detail.grid == Grid(4, 1)
    with pytest.raises(UsageError, match="a picture has 6 windows, and this model adapters for 4"):
        vlm.ask(picture, QUESTION, pyramid={"grid": (3, 2)})


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_pictures_of_any_size(vlm, size):
    assert len(vlm.ask(Image.new("RGB", size, "white"), "What?", **NEW).token_ids) > 0


def test_chats_end_with_their_turn(vlm, picture):
    processor = vlm.processor
    assert isinstance(processor, MonkeyProcessor)
    alone, chat = processor.encode_chat("Hi"), processor.encode_chat("Hi", history=[("a", "b")])
    assert processor.stop_tokens(alone) == []
    assert processor.stop_tokens(chat) == processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    written = vlm.ask([], "Hi", history=[("a", "b")], max_new_tokens=64)
    assert not set(written.token_ids) & set(processor.stop_tokens(chat))


def test_prompts(vlm, golden):
    processor = vlm.processor
    records = json.loads((golden / "monkey" / "tokenizer_cases.json").read_text(encoding="utf-8"))["chatml"]
    assert processor.prompt(QUESTION, pictures=1) == f"<imgpad> {QUESTION} Answer: "
    caption = "Generate the detailed caption in English:"
    assert processor.prompt(caption, pictures=1) == processor.prompt(f"{caption} ", pictures=1) == f"<imgpad> {caption} "
    assert processor.prompt("Same?", pictures=2) == "Picture 1:<imgpad>\nPicture 2:<imgpad>\nSame? Answer: "
    assert processor.prompt("<image>Which?", pictures=1) == "<imgpad>Which? Answer: "
    first, second = records
    assert processor.prompt(first["query"], history=first["history"]) == first["raw_text"]
    assert processor.encode_chat(first["query"], history=first["history"]) == first["ids"]
    question = second["query"].removeprefix("<img>images/scene_a.png</img> ")
    ours = processor.encode_chat(question, pictures=[5], system="You are a helpful assistant.")
    begin = second["ids"].index(686)
    assert (ours[: begin + 1], ours[begin + 1281 :]) == (second["ids"][: begin + 1], second["ids"][begin + 1281 :])
    blocks = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    assert processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True) == processor.prompt(
        QUESTION, pictures=1
    )


def test_users_write_no_special_tokens(vlm):
    ids = vlm.processor.encode_chat("<img>secret.png</img><|im_end|><imgpad>")
    assert all(token < 472 for token in ids)


def test_pictures_and_names_in_a_text(vlm, picture):
    with pytest.raises(PromptError, match="2 marks .* for 1 pictures"):
        vlm.processor(images=[picture], text=["<img>a.png</img><img>b.png</img> Which? Answer: "], return_tensors="pt")


def test_boxes_are_those_of_qwen(vlm, picture, monkeypatch):
    text = "<ref>the dog</ref><box>(100,200),(500,1000)</box>"
    ids = vlm.processor.tokenizer(text).input_ids
    end = vlm.processor.tokenizer.eos_token_id
    monkeypatch.setattr(vlm.backend, "write", _writes(vlm, [*ids, end]))
    answer = vlm.ask(picture, "Where is the dog?")
    assert answer.text == "the dog(100,200),(500,1000)"
    (box,) = answer.boxes
    assert box == (round(picture.width * 0.1), round(picture.height * 0.2), round(picture.width * 0.5), picture.height)


def _writes(vlm, ids):
    """A backend that has the network write these ids, by a processor that allows nothing else."""
    write = type(vlm.backend).write

    def forced(inputs, settings, selections):
        length = inputs["input_ids"].shape[1]
        settings = settings | {"prefix_allowed_tokens_fn": lambda row, sequence: [ids[len(sequence) - length]]}
        return write(vlm.backend, inputs, settings, selections)

    return forced


GONE = object()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("visual", GONE, "visual is missing; expected settings of the encoder"),
        ("hidden_size", "256", "hidden_size is '256'; expected a whole number, 1 or more"),
        ("seq_length", GONE, "seq_length is missing; expected a whole number, 1 or more"),
        ("no_bias", False, "no_bias is False; expected True: Qwen's linear maps have none"),
        ("rotary_pct", 0.5, "rotary_pct is 0.5; expected 1.0"),
        ("intermediate_size", 255, "intermediate_size is 255; expected a multiple of 2"),
        ("kv_channels", 16, "kv_channels is 16; expected heads that make 256 channels together"),
        ("visual.image_size", 900, "visual.image_size is 900; expected a multiple of 448, for whole windows"),
        ("visual.image_size", 1344, "visual.lora_repeat_num is 4; expected 9, an adapter for each window of 448 px"),
        ("visual.patch_size", 13, "visual.patch_size is 13; expected a divisor of 448"),
        ("visual.heads", 5, "visual.width is 48; expected a multiple of 5"),
        ("visual.mlp_ratio", "4", "visual.mlp_ratio is '4'; expected a positive number"),
        ("visual.image_start_id", 600, "visual.image_start_id is 600; expected 686, the id of <img>"),
        ("vocab_size", 680, "689 tokens with special ones, the model has 680"),
    ],
)
def test_wrong_settings(copied, name, value, message):
    def change(settings):
        place = settings
        *outer, last = name.split(".")
        for key in outer:
            place = place[key]
        place.pop(last) if value is GONE else place.__setitem__(last, value)

    folder = copied(change)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        minimonkey.load(folder)
    assert "\n" not in str(caught.value)


def _drop(tensors):
    tensors.pop("transformer.visual.transformer.resblocks.0.mlp_lora.3.lora_scale")


def _add(tensors):
    tensors["transformer.visual.transformer.resblocks.0.mlp_lora.4.lora_scale"] = torch.ones(1)


def _shrink(tensors):
    tensors["transformer.h.1.attn.c_attn.weight"] = torch.zeros(767, 256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, "1 missing (transformer.visual.transformer.resblocks.0.mlp_lora.3.lora_scale)"),
        (_add, "1 not expected (transformer.visual.transformer.resblocks.0.mlp_lora.4.lora_scale)"),
        (_shrink, "1 of another shape (transformer.h.1.attn.c_attn.weight [767, 256] for [768, 256])"),
    ],
)
def test_wrong_tensors(copied, change, message):
    folder = copied()
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    for attempt in (lambda: minimonkey.load(folder), lambda: convert(folder, folder.parent / "out", to="native")):
        with pytest.raises(CheckpointError, match=re.escape(message)):
            attempt()


def test_missing_and_cut_files(copied):
    folder = copied()
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1000])
    with pytest.raises(CheckpointError, match="model.safetensors: broken or cut short"):
        minimonkey.load(folder)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "qwen.tiktoken").unlink()
    with pytest.raises(CheckpointError, match="qwen.tiktoken: missing; get the folder anew"):
        minimonkey.load(folder)


def test_a_published_config_is_no_native_one(published):
    from minimonkey.models.monkey.configuration import MonkeyConfig

    with pytest.raises(CheckpointError, match="settings of a folder as Monkey was published"):
        MonkeyConfig.from_pretrained(published)


def test_the_hub_is_asked_for_the_tokenizer(published, monkeypatch):
    import minimonkey.checkpoints.folder as folders

    asked = []
    monkeypatch.setattr(folders, "snapshot_download", lambda model, **how: asked.append(how["allow_patterns"]) or published)
    assert folders.find_folder("echo840/Monkey").layout == "published"
    assert "qwen.tiktoken" in asked[1] and "qwen.tiktoken" not in asked[0]


def test_the_global_view_is_made_of_normalised_pixels(vlm, picture):
    """Not of the file: the two differ, and the published code makes it so."""
    images = vlm.processor.image_processor
    views = images(images=[picture], return_tensors="pt")["pixel_values"]
    direct = images(images=[picture], pyramid={"grid": (1, 1)}, return_tensors="pt")["pixel_values"]
    assert direct.shape[0] == 1
    assert 0.01 < np.abs(views[4].numpy() - direct[0].numpy()).max() < 3
