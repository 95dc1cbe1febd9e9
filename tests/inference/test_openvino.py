"""OpenVINO in torch's place: the same answers, and torch wherever it can't give them."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from transformers import DynamicCache

import minimonkey
from minimonkey.errors import MissingExtraError, ShortOfMemoryError, UsageError
from minimonkey.inference import openvino as engine
from minimonkey.inference import vision_language_model as inference
from minimonkey.inference.openvino import use_openvino

TILES = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
IMAGE_TOKENS = 4
MONKEY, PLAIN = "minimonkey-internlm2-56", "internvl2-qwen2-56"


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


@pytest.mark.parametrize(
    ("text", "attention"), [("qwen2", "sdpa"), ("llama", "sdpa"), ("phi3", "sdpa"), ("qwen3", "sdpa"), ("llama", "eager")]
)
@torch.no_grad()
def test_answers_are_those_of_torch(tiny_model, runs, text, attention):
    model = tiny_model(text)
    if attention == "eager":
        model.set_attn_implementation("eager")
    own = model.model.language_model.config._attn_implementation
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
    assert model.model.language_model.config._attn_implementation == own


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
    short = ids[:, :2].repeat(1, 4)
    both = model(input_ids=short).logits
    packed = torch.arange(8)[None] % 4
    pair = read(model, short[:1], position_ids=packed)
    cache = DynamicCache()
    whole = [read(model, short[:1], past_key_values=cache) for _ in range(2)]
    states = model(input_ids=short[:1], output_hidden_states=True).hidden_states
    use_openvino(model)
    torch.testing.assert_close(model.model.get_image_features(pixel_values=TILES, class_attention=True).attentions[0], looks)
    again = model(input_ids=ids[:1], attention_mask=mask[:1], mm_encoder_outputs={"image": features}).logits
    torch.testing.assert_close(again[:, 1:], padded[:, 1:])
    torch.testing.assert_close(model(input_ids=short).logits, both)
    torch.testing.assert_close(model(input_ids=short[:1], output_hidden_states=True).hidden_states, states)
    torch.testing.assert_close(read(model, short[:1], position_ids=packed), pair)
    with torch.enable_grad():
        model.get_image_features(pixel_values=TILES).pooler_output.sum().backward()
        assert model.model.vision_tower.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0
    assert runs == []
    cache = DynamicCache()
    again = [read(model, short[:1], past_key_values=cache) for _ in range(2)]
    assert runs == [3], "the first half of the two, into an empty cache"
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-4)


def read(model, ids, **inputs):
    """What the language model makes of ids alone."""
    text = model.model.language_model
    return text(inputs_embeds=text.embed_tokens(ids), **inputs).last_hidden_state


@torch.no_grad()
def test_ids_and_no_cache(tiny_model, runs):
    """The language model's own arguments in their order, and what is left out by a setting."""
    model = tiny_model("qwen2")
    ids, text = prompt(model), model.model.language_model
    before = text(ids).last_hidden_state
    use_openvino(model)
    torch.testing.assert_close(text(ids).last_hidden_state, before)
    assert runs == []
    text.config.use_cache = False
    assert text(inputs_embeds=text.embed_tokens(ids)).past_key_values is None
    assert runs == [3]


@pytest.mark.parametrize(("beyond", "read_by"), [(1, [1]), (0, [1, 3])])
@torch.no_grad()
def test_a_window_smaller_than_the_prompt_is_left_to_torch(tiny_model, runs, beyond, read_by):
    model = tiny_model("phi3")
    ids = prompt(model)
    model.model.language_model.config.sliding_window = ids.shape[1] - beyond
    before = model(input_ids=ids, pixel_values=TILES).logits
    said = model.generate(input_ids=ids, pixel_values=TILES, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    use_openvino(model)
    torch.testing.assert_close(model(input_ids=ids, pixel_values=TILES).logits, before, rtol=1e-4, atol=1e-4)
    again = model.generate(input_ids=ids, pixel_values=TILES, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert torch.equal(again, said)
    assert runs == 2 * read_by


@pytest.mark.parametrize(("name", "window"), [(MONKEY, None), (MONKEY, 64), (PLAIN, None)])
def test_published_models_answer_as_under_torch(golden, runs, name, window):
    """InternLM2, within its dynamic rope's window and beyond, and Qwen2."""
    vlm, ours = (minimonkey.load(golden / name, device="cpu", dtype="float32", engine=engine) for engine in (None, "openvino"))
    if window is not None:
        for opened in (vlm, ours):
            opened.model.model.language_model.rotary_emb.window = window
    picture = Image.open(golden / "pixels" / "wide_receipt.png").convert("RGB")
    inputs = vlm.processor(images=[picture], text=[vlm.processor.prompt("What is the total?", pictures=1)], return_tensors="pt")
    assert inputs["input_ids"].shape[1] > 64
    with torch.no_grad():
        torch.testing.assert_close(ours.model(**inputs).logits, vlm.model(**inputs).logits, rtol=1e-4, atol=1e-4)
    settings = {"max_new_tokens": 12, "min_new_tokens": 12}
    for question in ("What is the total?", "Read the text."):
        assert ours.ask(picture, question, **settings).token_ids == vlm.ask(picture, question, **settings).token_ids
    assert 1 in runs
    assert runs.count(3) == 3, "each prompt, and nothing else"


@torch.no_grad()
def test_once_more_takes_the_weights_as_they_are(tiny_model, runs):
    model, torchs = tiny_model("qwen2"), tiny_model("qwen2")
    use_openvino(model)
    for changed in (model, torchs):
        for parameter in changed.parameters():
            parameter.mul_(1.25)
    use_openvino(model)
    ids = prompt(model)
    expected = torchs(input_ids=ids, pixel_values=TILES).logits
    torch.testing.assert_close(model(input_ids=ids, pixel_values=TILES).logits, expected, rtol=1e-4, atol=1e-4)
    assert runs == [1, 3], "no program runs behind another"
    for module in (model.model.vision_tower, model.model.language_model):
        assert module.forward.torch_forward.__func__ is type(module).forward


def test_threads_get_their_own_answers(tiny_model, runs):
    model = tiny_model("llama")
    ids = prompt(model)
    pictures = torch.randn(8, *TILES.shape, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def answer(tiles):
        return [model(input_ids=ids, pixel_values=tiles).logits for _ in range(8)]

    use_openvino(model)
    serial = [answer(tiles) for tiles in pictures]
    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(answer, pictures))
    torch.testing.assert_close(parallel, serial)
    assert len(runs) == 2 * 2 * 64


def unknown_operation(model, monkeypatch):
    monkeypatch.setattr(model.model.language_model.layers[1].mlp, "forward", torch.special.bessel_j0)


def untraceable(model, monkeypatch):
    def stumble(hidden):
        raise TypeError("no such hidden states\nand more")

    monkeypatch.setattr(model.model.language_model.layers[1].mlp, "forward", stumble)


def refused_setting(model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: -5)


@pytest.mark.parametrize(
    ("obstacle", "reason", "earlier"),
    [
        (unknown_operation, r"Model wasn't fully converted\. .*aten::special_bessel_j0", True),
        (untraceable, "no such hidden states and more", False),
        (refused_setting, "Wrong value .* INFERENCE_NUM_THREADS.*", False),
    ],
)
def test_refused_models_stay_as_they_were(tiny_model, monkeypatch, obstacle, reason, earlier):
    model = tiny_model("llama")
    modules = (model.model.vision_tower, model.model.language_model)
    if earlier:
        use_openvino(model)
    before = [vars(module).get("forward") for module in modules]
    obstacle(model, monkeypatch)
    with pytest.raises(UsageError, match=rf"^this model can't run under engine='openvino' \({reason}\): leave engine out$") as info:
        use_openvino(model)
    assert "\n" not in str(info.value)
    assert [vars(module).get("forward") for module in modules] == before
    assert model.model.language_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("reason", "wrong", "said"),
    [
        ("no such shape", UsageError, r"^this model can't run under engine='openvino' \(no such shape\): leave engine out$"),
        (
            "std::bad_alloc",
            ShortOfMemoryError,
            "^out of memory while answering: leave engine out, which keeps",
        ),
    ],
)
def test_an_answer_that_openvino_gives_up_is_one_line(tiny_model, monkeypatch, reason, wrong, said):
    def give_up(*args, **kwargs):
        raise RuntimeError(f"Check 'ok' failed at src/x.cpp:1:\n{reason}")

    monkeypatch.setattr(engine, "_program", lambda *args: give_up)
    model = tiny_model("qwen2")
    use_openvino(model)
    tiles = torch.zeros(1, 3, *model.config.vision_config.image_size)
    with pytest.raises(wrong, match=said), torch.no_grad():
        model.model.vision_tower(pixel_values=tiles)


def test_other_language_models_are_refused(tiny_model):
    with pytest.raises(UsageError, match="^engine='openvino' reads with .*; this language model is gemma: leave engine out$"):
        use_openvino(tiny_model("gemma"))


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
