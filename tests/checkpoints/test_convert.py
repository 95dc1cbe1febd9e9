"""One layout into the other: equal logits, and files that the stock classes read."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
)

import minimonkey
from minimonkey.checkpoints.convert import convert
from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_processor
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.inference import EMBEDDED
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.pyramid import PyramidSpec


@pytest.fixture
def saved(tmp_path, tiny_model, tiny_processor):
    """Save a native folder: `saved("llama", tie_word_embeddings=True)`."""

    def make(text="llama", dtype=torch.float32, **fields):
        processor = tiny_processor(detail=(1, 6), adaptive=(1, 3))
        model = tiny_model(text, pyramid=dataclasses.asdict(processor.image_processor.spec), **fields)
        model.generation_config.max_new_tokens = 17
        model.to(dtype).save_pretrained(tmp_path / "native")
        processor.save_pretrained(tmp_path / "native")
        return tmp_path / "native"

    return make


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("text", ["qwen2", "llama"])
def test_a_stock_folder_gives_equal_logits_in_the_stock_class(saved, tmp_path, tiny_processor, picture, text):
    source = saved(text)
    convert(source, tmp_path / "stock", to="stock")
    inputs = tiny_processor(detail=(1, 6))(images=[picture], text=["<image>\nRead."], return_tensors="pt")
    expected = logits(MiniMonkeyForConditionalGeneration.from_pretrained(source), inputs)
    del inputs["level_tiles"]
    stock, info = InternVLForConditionalGeneration.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(logits(stock, inputs), expected)
    assert stock.generation_config.max_new_tokens == 17

    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("internvl", ["InternVLForConditionalGeneration"])
    assert not set(config) & {"pyramid", "compression"}
    for file in (tmp_path / "stock").glob("*.json"):
        assert "minimonkey" not in file.read_text().lower(), file.name
    assert load_file(source / "model.safetensors").keys() == load_file(tmp_path / "stock" / "model.safetensors").keys()


def test_the_stock_processor_gives_equal_inputs(saved, tmp_path, tiny_processor, picture, monkeypatch):
    """Put together by hand, its video slot empty: that takes torchvision, and so does AutoProcessor."""
    monkeypatch.setattr(InternVLProcessor, "check_argument_for_proper_class", lambda *arguments: None)
    convert(saved(), tmp_path / "stock", to="stock")
    stock = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil.from_pretrained(tmp_path / "stock"),
        tokenizer=AutoTokenizer.from_pretrained(tmp_path / "stock", trust_remote_code=False),
        image_seq_length=json.loads((tmp_path / "stock" / "processor_config.json").read_text())["image_seq_length"],
    )
    ours = tiny_processor(detail=(1, 6), adaptive=None)(images=[picture], text=["<image>\nRead."], return_tensors="pt")
    assert len(stock.tokenizer) == len(tiny_processor().tokenizer)
    theirs = stock(images=[picture], text=["<IMG_CONTEXT>\nRead."], return_tensors="pt")
    assert torch.equal(theirs["input_ids"], ours["input_ids"])
    assert ours["pixel_values"].shape == (7, 3, 28, 28)
    torch.testing.assert_close(theirs["pixel_values"], ours["pixel_values"], rtol=0, atol=1e-5)


def test_there_and_back_keeps_every_tensor_and_its_format(saved, tmp_path):
    source = saved("qwen2", dtype=torch.bfloat16)
    convert(source, tmp_path / "stock", to="stock")
    convert(tmp_path / "stock", tmp_path / "back", to="native")
    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(after[name].dtype == torch.bfloat16 and torch.equal(after[name], before[name]) for name in before)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["model_type"], config["pyramid"], config["dtype"]) == ("minimonkey", None, "bfloat16")
    folder = find_folder(tmp_path / "back")
    assert load_processor(folder, folder.config("native")).image_processor.spec == PyramidSpec.plain(1, 6, tile_px=28)


def test_a_folder_of_the_stock_class_becomes_native(saved, tmp_path, tiny_config, picture):
    convert(saved(), tmp_path / "stock", to="stock")
    config = tiny_config("llama").to_dict()
    stock = InternVLForConditionalGeneration(InternVLConfig.from_dict({k: v for k, v in config.items() if k != "model_type"}))
    stock.save_pretrained(tmp_path / "stock")  # other weights, without our conversion
    convert(tmp_path / "stock", tmp_path / "native-2", to="native")
    ours = MiniMonkeyForConditionalGeneration.from_pretrained(tmp_path / "native-2")
    inputs = {"input_ids": torch.tensor([[20, 21, 22]])}
    assert torch.equal(logits(ours, inputs), logits(stock, inputs))


def test_refusals(saved, tmp_path):
    source = saved()
    with pytest.raises(UsageError, match="exists and isn't an empty folder"):
        convert(source, source, to="stock")
    with pytest.raises(UsageError, match=r"to='onnx': expected one of native, stock, published"):
        convert(source, tmp_path / "new", to="onnx")
    with pytest.raises(CheckpointError, match="no such folder"):
        convert(tmp_path / "missing", tmp_path / "new", to="stock")
    weights = load_file(source / "model.safetensors")
    del weights["multi_modal_projector.linear_1.bias"]
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing \(multi_modal_projector\.linear_1\.bias\)"):
        convert(source, tmp_path / "new", to="stock")
    assert not (tmp_path / "new").exists()
    with pytest.raises(CheckpointError, match="nothing in it says how it was published"):
        convert(EMBEDDED, tmp_path / "new", to="published")
    assert not (tmp_path / "new").exists()


PUBLISHED = ["minimonkey-internlm2-56", "internvl2-qwen2-56"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_to_native_and_back_keeps_every_bit(tmp_path, golden, name):
    source = golden / name
    convert(source, tmp_path / "native", to="native", shard_bytes=200_000)
    assert len(list((tmp_path / "native").glob("model-*.safetensors"))) > 1
    convert(tmp_path / "native", tmp_path / "back", to="published")
    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(after[key].dtype == before[key].dtype and torch.equal(after[key], before[key]) for key in before)
    small = {file.name for file in source.iterdir()} - {"model.safetensors", "golden.json", "golden.safetensors"}
    assert small <= {file.name for file in (tmp_path / "back").iterdir()}
    for file in small:
        assert (tmp_path / "back" / file).read_bytes() == (source / file).read_bytes(), file


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_layouts_of_a_published_model_give_equal_logits_and_ids(tmp_path, golden, picture, name):
    convert(golden / name, tmp_path / "native", to="native")
    convert(golden / name, tmp_path / "stock", to="stock")
    published, native = (minimonkey.load(path, device="cpu") for path in (golden / name, tmp_path / "native"))
    assert native.processor.image_processor.spec == published.processor.image_processor.spec
    inputs = published.processor(images=[picture], text=[published.processor.prompt("Read.", pictures=1)], return_tensors="pt")
    again = native.processor(images=[picture], text=[native.processor.prompt("Read.", pictures=1)], return_tensors="pt")
    assert inputs.keys() == again.keys() and all(torch.equal(inputs[key], again[key]) for key in inputs)
    assert native.model.generation_config.eos_token_id == published.model.generation_config.eos_token_id
    expected = logits(published.model, inputs)
    assert torch.equal(logits(native.model, inputs), expected)
    del inputs["level_tiles"]
    stock = InternVLForConditionalGeneration.from_pretrained(tmp_path / "stock", dtype=torch.float32)
    torch.testing.assert_close(logits(stock, inputs), expected, rtol=0, atol=1e-5)


def test_native_to_native_keeps_what_it_was_published_with(tmp_path, golden):
    source = golden / PUBLISHED[0]
    convert(source, tmp_path / "one", to="native")
    convert(tmp_path / "one", tmp_path / "two", to="native")
    convert(tmp_path / "two", tmp_path / "back", to="published")
    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("to", ["native", "stock", "published"])
def test_what_goes_wrong_half_way_leaves_nothing(tmp_path, golden, monkeypatch, to):
    """A disk that is full, say; the destination, empty before, is as it was and can be tried again."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    destination = tmp_path / "new"
    destination.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("minimonkey.checkpoints.tensors.save_file", full)
        with pytest.raises(OSError, match="No space left"):
            convert(golden / PUBLISHED[1], destination, to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["new"] and not list(destination.iterdir())
    convert(golden / PUBLISHED[1], destination, to=to)
    assert (destination / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_wrong_generation_setting_is_one_line(saved, tmp_path):
    source = saved()
    (source / "generation_config.json").write_text('{"max_new_tokens": "many"}')
    with pytest.raises(CheckpointError, match=r"generation_config\.json: ") as caught:
        convert(source, tmp_path / "new", to="stock")
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()
