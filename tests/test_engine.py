"""OpenVINO in torch's place: the same answers, and torch wherever it can't give them."""

import sys

import pytest
import torch

from minimonkey import engine, inference
from minimonkey.engine import use_openvino
from minimonkey.errors import MissingExtraError, UsageError

TILES = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
IMAGE_TOKENS = 4


@pytest.fixture(autouse=True)
def short_prompts(monkeypatch):
    monkeypatch.setattr(engine, "SHORTEST", 4)


@pytest.fixture
def runs(monkeypatch):
    """How often a compiled program ran."""
    counted = []
    original = engine.compiled

    def counting(*args):
        run = original(*args)
        return lambda *tensors: counted.append(len(tensors)) or run(*tensors)

    monkeypatch.setattr(engine, "compiled", counting)
    return counted


def prompt(model, rows=1):
    image = model.config.image_token_id
    first, second, *last = (id for id in range(20, 27) if id != image)
    ids = [first, second, *[image] * (IMAGE_TOKENS * len(TILES)), *last]
    return torch.tensor([ids] * rows)


@pytest.mark.parametrize("text", ["qwen2", "llama"])
@torch.no_grad()
def test_answers_are_those_of_torch(tiny_model, runs, text):
    model = tiny_model(text)
    ids = prompt(model)
    before = model(input_ids=ids, pixel_values=TILES)
    said = model.generate(input_ids=ids, pixel_values=TILES, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    use_openvino(model)
    after = model(input_ids=ids, pixel_values=TILES)
    assert runs == [1, 3], "the encoder, then the prompt with cosines and sines"
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(after.past_key_values.layers, before.past_key_values.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.values, theirs.values, rtol=1e-4, atol=1e-4)
    again = model.generate(input_ids=ids, pixel_values=TILES, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert torch.equal(again, said)
    assert runs == [1, 3, 1, 3], "tokens behind the prompt are torch's"


@torch.no_grad()
def test_bfloat16_stays_bfloat16(tiny_model):
    model = tiny_model("qwen2").to(torch.bfloat16)
    before = model.get_image_features(pixel_values=TILES).pooler_output
    use_openvino(model)
    after = model.get_image_features(pixel_values=TILES).pooler_output
    assert after.dtype == torch.bfloat16
    assert (after - before).float().norm() < 0.03 * before.float().norm()


@torch.no_grad()
def test_what_it_can_not_do_is_left_to_torch(tiny_model, runs):
    model = tiny_model("qwen2")
    ids = prompt(model, rows=2)
    mask = torch.ones_like(ids)
    mask[0, :1] = 0
    features = model.get_image_features(pixel_values=TILES)
    looks = model.model.get_image_features(pixel_values=TILES, class_attention=True).attentions[0]
    padded = model(input_ids=ids[:1], attention_mask=mask[:1], mm_encoder_outputs={"image": features}).logits
    both = model(input_ids=ids[:, :2]).logits
    states = model(input_ids=ids[:1, :2].repeat(1, 4), output_hidden_states=True).hidden_states
    use_openvino(model)
    torch.testing.assert_close(model.model.get_image_features(pixel_values=TILES, class_attention=True).attentions[0], looks)
    again = model(input_ids=ids[:1], attention_mask=mask[:1], mm_encoder_outputs={"image": features}).logits
    torch.testing.assert_close(again[:, 1:], padded[:, 1:])
    torch.testing.assert_close(model(input_ids=ids[:, :2]).logits, both)
    torch.testing.assert_close(model(input_ids=ids[:1, :2].repeat(1, 4), output_hidden_states=True).hidden_states, states)
    with torch.enable_grad():
        model.get_image_features(pixel_values=TILES).pooler_output.sum().backward()
        assert model.model.vision_tower.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0
    assert runs == []


def test_without_openvino(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'minimonkey\[openvino\]'"):
        use_openvino(tiny_model("qwen2"))


def test_numbers_that_it_does_not_compute_in(tiny_model):
    with pytest.raises(
        UsageError, match=r"^engine='openvino' computes float32 .* this model has torch\.float16 on cpu: leave engine out$"
    ):
        use_openvino(tiny_model("qwen2").to(torch.float16))


def test_load_takes_it(monkeypatch):
    used = []
    monkeypatch.setattr(inference, "use_openvino", used.append)
    vlm = inference.load(engine="openvino")
    assert used == [vlm.model]
    inference.load()
    assert len(used) == 1
    with pytest.raises(UsageError, match="^engine='onnx': expected 'openvino', or nothing for torch$"):
        inference.load(engine="onnx")


def test_signals_stay_on_their_stack(tiny_model):
    """OpenVINO's own would be freed under the next Ctrl-C."""
    before = engine.SignalStack.current()
    use_openvino(tiny_model("qwen2"))
    after = engine.SignalStack.current()
    assert (after.start, after.flags, after.size) == (before.start, before.flags, before.size)
