"""Published folders of other shapes and settings than the recorded ones: InternLM2, Qwen2 and the encoder, against `reference`."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import minimonkey
from minimonkey.checkpoints.convert import convert
from tests.checkpoints.reference import write_model

MONKEY, PLAIN = "minimonkey-internlm2-56", "internvl2-qwen2-56"
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 130, 3), dtype=np.uint8))
STEPS = 10
LEFT_OUT = object()
"""A setting that config.json doesn't have; the reference is told the published default."""


def changed(settings, changes):
    merged = settings | changes
    return {name: value for name, value in merged.items() if value is not LEFT_OUT}


@pytest.fixture
def published(golden, tmp_path):
    """Make a folder with the tokenizer of a golden one, and say anew what it must do: `published(MONKEY, llm={"bias": True})`.

    `defaults` are what the published code takes for settings that are left out.
    """

    def make(name, *, llm=None, vision=None, top=None, defaults=None, shards=1):
        folder = tmp_path / name
        shutil.copytree(golden / name, folder, ignore=shutil.ignore_patterns("*.safetensors", "golden.json"))
        config = json.loads((folder / "config.json").read_text()) | (top or {})
        parts = {"llm_config": llm or {}, "vision_config": vision or {}}
        said = config | {part: changed(config[part], changes) for part, changes in parts.items()}
        meant = said | {part: changed(said[part], (defaults or {}).get(part, {})) for part in parts}
        reference = write_model(folder, meant, shards=shards)
        (folder / "config.json").write_text(json.dumps(said))
        return folder, reference

    return make


def check(folder, reference, question="How many?"):
    vlm = minimonkey.load(folder, device="cpu")
    text = vlm.processor.prompt(question, pictures=1)
    inputs = vlm.processor(images=[PICTURE], text=[text], return_tensors="pt")
    prompt = (inputs["input_ids"][0].tolist(), inputs["pixel_values"], vlm.processor.image_token_id)
    with torch.no_grad():
        features = vlm.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        torch.testing.assert_close(features, reference.vision.features(inputs["pixel_values"]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(vlm.model(**inputs).logits[0], reference.logits(*prompt), rtol=1e-4, atol=1e-4)
    said, margins = reference.greedy(*prompt, STEPS)
    end = vlm.model.generation_config.eos_token_id
    sure = next((step for step, margin in enumerate(margins) if margin < 0.002), STEPS)
    assert sure >= 4, "the reference decides enough"
    said = said[: said.index(end)] if end in said else said
    assert vlm.ask(PICTURE, question, max_new_tokens=STEPS).token_ids[:sure] == said[:sure]
    return vlm


DYNAMIC = {"type": "dynamic", "factor": 2.0}


@pytest.mark.parametrize(
    ("heads", "key_heads", "settings"),
    [
        (8, 1, {"bias": True}),
        (6, 3, {"hidden_size": 48, "rope_scaling": None}),
        (8, 8, {"bias": True, "tie_word_embeddings": True}),
        (4, 2, {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        (8, 4, {"max_position_embeddings": 100, "rope_scaling": {"type": "dynamic", "factor": 3.0}}),
        (8, 2, {"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 4.0}}),
        (4, None, {"rope_theta": LEFT_OUT, "rope_scaling": LEFT_OUT}),
    ],
)
def test_internlm2(published, heads, key_heads, settings):
    llm = {"num_attention_heads": heads, "num_key_value_heads": key_heads, **settings}
    vlm = check(*published(MONKEY, llm=llm, shards=3))
    assert type(vlm.model.config.text_config).__name__ == "LlamaConfig"


def test_internlm2_is_biased_unless_it_says_otherwise(published):
    check(*published(MONKEY, llm={"bias": LEFT_OUT}, defaults={"llm_config": {"bias": True}}))


def test_internlm2_without_a_number_of_key_heads_has_as_many_as_heads(published):
    check(*published(MONKEY, llm={"num_key_value_heads": LEFT_OUT}))


@pytest.mark.parametrize(
    "settings", [{"tie_word_embeddings": True}, {"rope_theta": LEFT_OUT}, {"num_key_value_heads": 8}, {"num_key_value_heads": 1}]
)
def test_qwen2(published, settings):
    folder, reference = published(PLAIN, llm=settings, shards=2)
    check(folder, reference)


@pytest.mark.parametrize(
    ("vision", "defaults"),
    [
        ({"norm_type": "rms_norm", "qk_normalization": True}, {}),
        ({"norm_type": LEFT_OUT}, {"norm_type": "rms_norm"}),
        ({"qk_normalization": LEFT_OUT}, {"qk_normalization": True}),
        ({"qkv_bias": LEFT_OUT}, {"qkv_bias": False}),
        ({"layer_norm_eps": 1e-3}, {}),
    ],
)
def test_encoders(published, vision, defaults):
    """What a folder leaves out is as the published code has it, which isn't always as transformers has it."""
    check(*published(PLAIN, vision=vision, defaults={"vision_config": defaults}))


@pytest.mark.parametrize("layer", [-2, 1])
def test_features_of_an_earlier_layer(published, layer):
    check(*published(PLAIN, top={"select_layer": layer}))


def test_tiles_of_another_size(published):
    sizes = {"image_size": 112, "patch_size": 14, "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 1}
    vlm = check(*published(MONKEY, vision=sizes, top={"force_image_size": 112}))
    assert (vlm.processor.image_seq_length, vlm.processor.image_processor.spec.tile_px) == (16, 112)


def test_a_tied_and_biased_model_in_every_layout(published, tmp_path):
    llm = {"bias": True, "tie_word_embeddings": True, "num_key_value_heads": 4, "max_position_embeddings": 100}
    folder, reference = published(MONKEY, llm=llm, shards=2)
    for layout in ("native", "stock"):
        convert(folder, tmp_path / layout, to=layout, shard_bytes=100_000)
    convert(tmp_path / "native", tmp_path / "published", to="published")
    for layout in ("native", "stock", "published"):
        vlm = minimonkey.load(tmp_path / layout, device="cpu", pyramid={"detail": (4, 12), "adaptive": (3, 7)})
        inputs = vlm.processor(images=[PICTURE], text=[vlm.processor.prompt("How many?", pictures=1)], return_tensors="pt")
        prompt = (inputs["input_ids"][0].tolist(), inputs["pixel_values"], vlm.processor.image_token_id)
        with torch.no_grad():
            torch.testing.assert_close(vlm.model(**inputs).logits[0], reference.logits(*prompt), rtol=1e-4, atol=1e-4)
    before = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    after = load_file(tmp_path / "published" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
