"""InternVL2-4B's layout (Phi-3, "su" rope), of which nothing was recorded: random folders against networks said anew (`reference`).

The published rule for positions looks at how long the row is by now: prompts within the first window, beyond it, and answers that
cross it, whose earlier keys stay as they were turned.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import InternVLForConditionalGeneration

import minimonkey
from minimonkey.checkpoints.convert import convert
from tests.checkpoints.reference import SU, phi3_config, write_model
from tests.checkpoints.slow_llama import SlowLlama, write_phi3_tokenizer

QUESTION = "how many cats sat on the mat"
STEPS = 12
END = 422
"""<|end|>."""
PICTURES = [
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)) for size in ((60, 130, 3), (90, 70, 3))
]


@pytest.fixture
def published(tmp_path):
    """Make a folder, load it and say anew what it must do: `published(original_max_position_embeddings=64)`."""

    def make(*, vision=None, shards=1, seed=0, **llm):
        folder = tmp_path / f"InternVL2-4B-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        config = phi3_config(**llm)
        config["vision_config"] |= vision or {}
        write_phi3_tokenizer(folder)
        reference = write_model(folder, config, seed=seed, shards=shards)
        return minimonkey.load(folder, device="cpu"), reference, folder

    return make


def inputs_of(vlm, pictures, question=QUESTION, **settings):
    text = vlm.processor.prompt(question, pictures=len(pictures), **settings)
    return vlm.processor(images=pictures or None, text=[text], return_tensors="pt")


def check(vlm, reference, pictures, question=QUESTION, **settings):
    """Logits of the prompt and greedy ids of the answer, as far as margins decide them; answers with the prompt's length."""
    inputs = inputs_of(vlm, pictures, question, **settings)
    ids, tiles, image_token = inputs["input_ids"][0].tolist(), inputs.get("pixel_values"), vlm.processor.image_token_id
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[0]
    torch.testing.assert_close(logits, reference.logits(ids, tiles, image_token), rtol=1e-4, atol=1e-4)
    same_ids(vlm.ask(pictures, question, max_new_tokens=STEPS, **settings), reference, ids, tiles, image_token)
    return len(ids)


def same_ids(answer, reference, ids, tiles, image_token):
    said, margins = reference.greedy(ids, tiles, image_token, STEPS)
    end = said.index(END) if END in said else STEPS
    sure = next((step for step, margin in enumerate(margins) if margin < 0.002), STEPS)
    assert sure >= 5, "the reference decides enough"
    assert answer.token_ids[:sure] == said[: min(sure, end)]


def prompt_length(vlm, pictures):
    return inputs_of(vlm, pictures)["input_ids"].shape[1]


@pytest.mark.parametrize("vision", [{}, {"qk_normalization": True}, {"norm_type": "rms_norm", "qkv_bias": False}])
def test_features(published, vision):
    vlm, reference, _ = published(vision=vision, shards=2)
    tiles = inputs_of(vlm, PICTURES)["pixel_values"]
    with torch.no_grad():
        features = vlm.model.get_image_features(pixel_values=tiles).pooler_output
    assert features.shape[1:] == (4, 48)
    torch.testing.assert_close(features, reference.vision.features(tiles), rtol=1e-4, atol=1e-4)


def test_prompts_within_and_beyond_the_first_window_and_answers_that_cross_it(published):
    vlm, reference, _ = published()
    length = check(vlm, reference, PICTURES[:1])
    for window in (64, length + 4):
        vlm, other, _ = published(original_max_position_embeddings=window, num_key_value_heads=6)
        assert check(vlm, other, PICTURES[:1]) == length
    # The three differ, so the window is seen; and the answer that crosses differs from one that doesn't.
    ids = inputs_of(vlm, PICTURES[:1])["input_ids"][0].tolist()
    tiles = inputs_of(vlm, PICTURES[:1])["pixel_values"]
    within = reference.logits(ids, tiles, vlm.processor.image_token_id)
    assert not torch.allclose(within, other.logits(ids, tiles, vlm.processor.image_token_id), atol=1e-2)


def test_every_step_of_an_answer_that_crosses_the_window(published):
    """Logits, not only the best ids: step by step on the cache, from three tokens before the window to five behind it."""
    length = prompt_length(published()[0], PICTURES[:1])
    vlm, reference, _ = published(original_max_position_embeddings=length + 3, num_key_value_heads=2, shards=3)
    inputs = inputs_of(vlm, PICTURES[:1])
    inputs.pop("level_tiles")
    settings = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True, "eos_token_id": None}
    output = vlm.model.generate(**inputs, max_new_tokens=9, **settings)
    said = output.sequences[0, length:].tolist()
    language, logits = reference._begun(inputs["input_ids"][0].tolist(), inputs["pixel_values"], vlm.processor.image_token_id)
    for step, token in enumerate(said):
        torch.testing.assert_close(output.logits[step][0], logits[-1].detach(), rtol=1e-4, atol=1e-4)
        logits = language.step(language.embed([token]))


def test_turns_two_pictures_and_text_alone(published):
    vlm, reference, _ = published(original_max_position_embeddings=64)
    history = [("what is the total", "it is 3.50"), ("and then", "the cat")]
    check(vlm, reference, PICTURES[:1], history=history)
    check(vlm, reference, PICTURES, "<image> or <image>?")
    check(vlm, reference, [], "the cat sat")
    check(vlm, reference, [], "the cat sat", system="be short")


def test_the_prompt_has_the_ids_of_the_slow_tokenizer(published):
    vlm, _, folder = published()
    ids = inputs_of(vlm, [], "the cat  sat")["input_ids"][0].tolist()
    assert ids[1:] == SlowLlama(folder).ids(vlm.processor.prompt("the cat  sat"))


def test_a_long_row_beside_a_short_one_is_each_alone(published):
    """The published code lets the longest row of a batch decide for all; here each row is what it is alone."""
    length = prompt_length(published()[0], [])
    vlm, reference, _ = published(original_max_position_embeddings=length + 6)
    rows = [(PICTURES, QUESTION), ([], QUESTION), (PICTURES[:1], QUESTION)]
    answers = vlm.batch(rows, max_new_tokens=STEPS)
    for (pictures, question), answer in zip(rows, answers, strict=True):
        inputs = inputs_of(vlm, pictures, question)
        ids = inputs["input_ids"][0].tolist()
        same_ids(answer, reference, ids, inputs.get("pixel_values"), vlm.processor.image_token_id)


def test_a_prompt_leaves_nothing_behind(published):
    vlm, reference, _ = published(original_max_position_embeddings=prompt_length(published()[0], []) + 20)
    for pictures in (PICTURES, [], PICTURES[:1], []):
        check(vlm, reference, pictures)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_small_sliding_window(published, attention):
    _, reference, folder = published(sliding_window=40, original_max_position_embeddings=64)
    check(minimonkey.load(folder, device="cpu", attn_implementation=attention), reference, PICTURES[:1])


def test_a_window_behind_the_last_position_is_no_limit(published):
    """The rope of a published folder stretches; only its tokenizer says how far."""
    vlm, reference, _ = published(max_position_embeddings=128, original_max_position_embeddings=64)
    assert check(vlm, reference, PICTURES) > 128


def test_plain_rope(published):
    check(*published(rope_scaling=None)[:2], PICTURES[:1])


def test_every_layout(published, tmp_path):
    vlm, reference, folder = published(original_max_position_embeddings=64, shards=3)
    for layout in ("native", "stock"):
        convert(folder, tmp_path / layout, to=layout, shard_bytes=60_000)
    convert(tmp_path / "native", tmp_path / "published", to="published")
    check(minimonkey.load(tmp_path / "native", device="cpu"), reference, PICTURES[:1])
    inputs = inputs_of(vlm, PICTURES)
    del inputs["level_tiles"]
    stock = InternVLForConditionalGeneration.from_pretrained(tmp_path / "stock", dtype=torch.float32).eval()
    expected = reference.logits(inputs["input_ids"][0].tolist(), inputs["pixel_values"], vlm.processor.image_token_id)
    with torch.no_grad():
        torch.testing.assert_close(stock(**inputs).logits[0], expected, rtol=1e-4, atol=1e-4)
    before = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    after = load_file(tmp_path / "published" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(after[name].dtype == torch.bfloat16 and torch.equal(after[name], before[name]) for name in before)
    assert json.loads((tmp_path / "published" / "config.json").read_text())["llm_config"]["rope_scaling"] == SU
