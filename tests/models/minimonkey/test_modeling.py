"""The network against the stock InternVL class, and what its vision encoder sees."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.language_model.layers import CACHE
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration

IMAGE, TILE_PX = 5, 28  # one image token a tile


def settings(text: str = "qwen2", tied: bool = False) -> dict:
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": tied}
    sizes = {"num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 512}
    return {
        "text_config": {"model_type": text} | layers | sizes | special,
        "vision_config": layers | {"image_size": TILE_PX},
        "image_token_id": IMAGE,
        "image_seq_length": 1,
        "tie_word_embeddings": tied,
    }


def randomised(model, seed: int = 0):
    """Every tensor random, norms and biases too, so that none of them can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def tiles(*seeds: int) -> torch.Tensor:
    """One random tile for each seed; equal seeds give equal tiles."""
    return torch.stack([torch.randn(3, TILE_PX, TILE_PX, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def prompt(*lengths: int, image_tokens: int = 0) -> dict:
    """Rows of `image_tokens` and then text, left padded to the longest."""
    rows = [[1] + [IMAGE] * image_tokens + [7 + (3 * i + length) % 50 for i in range(length)] for length in lengths]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


@pytest.fixture(scope="module")
def model():
    return randomised(MiniMonkeyForConditionalGeneration(MiniMonkeyConfig(**settings())))


@pytest.fixture
def encoded(model):
    """The number of tiles of each call of the vision encoder."""
    calls: list[int] = []
    handle = model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    yield calls
    handle.remove()


@pytest.mark.parametrize("text", ["qwen2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_stock_folder_loads_with_equal_logits_and_is_saved_with_equal_keys(tmp_path, text, tied):
    stock = randomised(InternVLForConditionalGeneration(InternVLConfig(**settings(text, tied))))
    stock.save_pretrained(tmp_path / "stock")
    ours = MiniMonkeyForConditionalGeneration.from_pretrained(tmp_path / "stock").eval()
    inputs = prompt(4, image_tokens=3) | {"pixel_values": tiles(1, 2, 3)}
    with torch.no_grad():
        expected = stock(**inputs).logits
        assert torch.equal(ours(**inputs).logits, expected)
    assert expected.abs().max() > 1

    ours.save_pretrained(tmp_path / "ours")
    fresh = MiniMonkeyForConditionalGeneration(ours.config)  # not loaded from anywhere: transformers keeps no record of renamings
    fresh.save_pretrained(tmp_path / "fresh")
    keys = {name: set(load_file(tmp_path / name / "model.safetensors")) for name in ("stock", "ours", "fresh")}
    assert keys["ours"] == keys["fresh"] == keys["stock"]
    assert ("language_model.lm_head.weight" in keys["ours"]) is not tied
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "minimonkey"
    again = MiniMonkeyForConditionalGeneration.from_pretrained(pretrained_model_name_or_path=tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, expected)


def drop_head(tensors):
    del tensors["language_model.lm_head.weight"]


def add_one(tensors):
    tensors["vision_tower.extra.weight"] = torch.zeros(2)


def cut_one(tensors):
    tensors["multi_modal_projector.linear_1.bias"] = torch.zeros(31)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_head, r"1 missing \(lm_head\.weight\)"),
        (add_one, r"1 not expected \(.*vision_tower\.extra\.weight\)"),
        (cut_one, r"1 of another shape \(.*multi_modal_projector\.linear_1\.bias \[31\] for \[32\]\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_one_error(tmp_path, capfd, damage, message):
    randomised(InternVLForConditionalGeneration(InternVLConfig(**settings()))).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=message) as caught:
        MiniMonkeyForConditionalGeneration.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_no_tile_is_encoded_twice(model, encoded, monkeypatch):
    inputs = prompt(5, image_tokens=6) | {"pixel_values": tiles(1, 2, 1, 3, 2, 1), "level_tiles": torch.tensor([[3, 2, 1]])}
    with torch.no_grad():
        once = model(**inputs).logits
        assert encoded == [3]
        monkeypatch.setattr(model.model, "encode_duplicates", True)
        every = model(**inputs).logits
    assert encoded == [3, 6]
    torch.testing.assert_close(once, every, rtol=0, atol=1e-5)


def test_every_tile_is_encoded_where_gradients_flow(model, encoded):
    inputs = prompt(5, image_tokens=2) | {"pixel_values": tiles(1, 1)}
    model(**inputs)
    assert encoded == [2]
    model.train()
    with torch.no_grad():
        model(**inputs)
    model.eval()
    assert encoded == [2, 2]


def test_tiles_are_encoded_a_bounded_number_at_a_time(model, encoded, monkeypatch):
    pixels = tiles(*range(7), 3)
    with torch.no_grad():
        together = model.get_image_features(pixel_values=pixels, output_hidden_states=True)
        monkeypatch.setattr(model.model, "tile_batch", 3)
        apart = model.get_image_features(pixel_values=pixels, output_hidden_states=True)
    assert encoded == [7, 3, 3, 1]
    torch.testing.assert_close(together.pooler_output, apart.pooler_output, rtol=0, atol=1e-5)
    assert apart.pooler_output.shape == (8, 1, 32)
    assert [state.shape for state in apart.hidden_states] == [(8, 5, 32)] * 3
    torch.testing.assert_close(together.hidden_states[1], apart.hidden_states[1], rtol=0, atol=1e-5)


def test_generate_encodes_once_and_ignores_level_tiles(model, encoded):
    inputs = prompt(5, image_tokens=3) | {"pixel_values": tiles(1, 2, 1)}
    plain = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    levels = model.generate(**inputs, level_tiles=torch.tensor([[2, 0, 1]]), max_new_tokens=6, do_sample=False)
    assert encoded == [2, 2]
    assert plain.shape[1] == inputs["input_ids"].shape[1] + 6
    assert torch.equal(plain, levels)


def test_a_left_padded_batch_equals_one_by_one(model):
    pixels = tiles(1, 2, 3, 4)
    batch = prompt(9, 3, image_tokens=2)
    assert batch["attention_mask"].sum(1).tolist() == [12, 6]
    together = model.generate(**batch, pixel_values=pixels, max_new_tokens=8, do_sample=False)[:, 12:]
    for row, length in enumerate((9, 3)):
        single = prompt(length, image_tokens=2)
        alone = model.generate(**single, pixel_values=pixels[2 * row : 2 * row + 2], max_new_tokens=8, do_sample=False)
        assert torch.equal(alone[0, single["input_ids"].shape[1] :], together[row])


def test_a_kept_cache_continues_where_it_stopped(model):
    inputs = prompt(5, image_tokens=2) | {"pixel_values": tiles(1, 2)}
    whole = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    begun = model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    mask = torch.ones_like(begun.sequences)
    rest = model.generate(
        input_ids=begun.sequences,
        attention_mask=mask,
        cache=begun[CACHE],
        max_new_tokens=5,
        do_sample=False,
    )
    assert torch.equal(rest, whole)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@torch.no_grad()
def test_a_cache_is_known_by_either_name(model, name):
    """Whichever of them the installed transformers uses: in the model, its backbone and `generate`."""
    text, pixels = prompt(5, image_tokens=2), tiles(1, 2)
    whole, said = model(**text, pixel_values=pixels).logits, model.generate(**text, pixel_values=pixels, **GREEDY)
    for run in (model, model.model):
        cache = DynamicCache()
        run(input_ids=text["input_ids"][:, :-1], pixel_values=pixels, **{name: cache})
        output = run(input_ids=text["input_ids"][:, -1:], **{name: cache})
        assert output[CACHE] is cache
        logits = output.logits if run is model else model.lm_head(output.last_hidden_state)
        torch.testing.assert_close(logits, whole[:, -1:], rtol=1e-5, atol=1e-5)
        cache.crop(-1)
        assert torch.equal(model.generate(**text, **{name: cache}, **GREEDY), said)
        assert cache.get_seq_length() == said.shape[1] - 1


def test_beams_agree_with_the_stock_class(tmp_path, model):
    model.save_pretrained(tmp_path)
    stock = InternVLForConditionalGeneration.from_pretrained(tmp_path, config=InternVLConfig(**settings())).eval()
    inputs = prompt(5, 3, image_tokens=2) | {"pixel_values": tiles(1, 2, 3, 3)}
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(
        model.generate(**inputs, level_tiles=torch.tensor([[1, 0, 1], [1, 0, 1]]), **beams), stock.generate(**inputs, **beams)
    )


# -- compression as published; test_compression.py compares with the published code, test_prefill.py has the other selectors ---

HALF = CompressionSpec("scm-reference", keep_ratio=0.5)
GREEDY = {"max_new_tokens": 7, "do_sample": False}


def picture(detail: int = 4, adaptive: int = 2, text: int = 6) -> dict:
    """One prompt with one picture, a token a tile."""
    tile_count = detail + adaptive + 1
    levels = {"level_tiles": torch.tensor([[detail, adaptive, 1]])}
    return prompt(text, image_tokens=tile_count) | {"pixel_values": tiles(*range(tile_count))} | levels


@pytest.fixture(params=["llama", "qwen2", "qwen3", "phi3"])
def reader(request):
    return randomised(MiniMonkeyForConditionalGeneration(MiniMonkeyConfig(**settings(request.param))))


@torch.no_grad()
def test_compressed_logits_are_those_of_the_kept_embeddings(reader):
    inputs = picture()
    compressed = reader.model.compress(HALF, **inputs)
    (selection,) = compressed.selections
    assert selection.detail == (1, 5)
    (kept,) = compressed.index.tolist()
    length = inputs["input_ids"].shape[1]
    assert kept == [0, *(1 + selection.selected).tolist(), *range(6, length)]
    assert len(selection.selected) == 2

    features = reader.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
    whole = reader.get_input_embeddings()(inputs["input_ids"])
    whole[0, 1:8] = features[:, 0]
    assert torch.equal(compressed.embeddings, whole[:, kept])
    expected = reader.lm_head(reader.model.language_model(inputs_embeds=whole[:, kept]).last_hidden_state)
    torch.testing.assert_close(reader(**inputs, compression=HALF).logits, expected, rtol=0, atol=1e-5)


def test_compressed_generation_goes_on_from_the_kept_tokens(reader):
    """Against a loop by hand: a compressed prefill, then one token at a time in its cache, positions counted from the kept ones."""
    inputs = picture()
    whole = reader.generate(**inputs, compression=HALF, **GREEDY)
    assert torch.equal(whole[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])

    said = []
    with torch.no_grad():
        output = reader(**inputs, compression=HALF, use_cache=True)
        kept = output.logits.shape[1]
        for step in range(GREEDY["max_new_tokens"]):
            assert output[CACHE].get_seq_length() == kept + step
            said.append(int(output.logits[0, -1].argmax()))
            token = torch.tensor([[said[-1]]])
            output = reader(input_ids=token, cache=output[CACHE], compression=HALF, use_cache=True)
    new = whole[0, inputs["input_ids"].shape[1] :].tolist()
    assert len(new) >= 2  # one of them stops there
    assert new == said[: len(new)]


class Overheard(BaseStreamer):
    def __init__(self):
        self.pieces = []

    def put(self, value):
        self.pieces.append(value.flatten().tolist())

    def end(self):
        self.pieces.append("end")


def test_compressed_generation_encodes_once_and_can_be_heard_and_stopped(model, encoded):
    inputs = picture()
    plain = model.generate(**inputs, compression=HALF, **GREEDY)
    assert encoded == [7]
    new = plain[0, inputs["input_ids"].shape[1] :].tolist()

    streamer, seen = Overheard(), []

    def score(input_ids, scores):
        seen.append(int(scores[0].argmax()))
        return scores

    def enough(input_ids, scores, **kwargs):
        return torch.full((1,), len(seen) == 3, dtype=torch.bool)

    hooks = {"logits_processor": LogitsProcessorList([score]), "stopping_criteria": StoppingCriteriaList([enough])}
    stopped = model.generate(**inputs, compression=HALF, streamer=streamer, **hooks, **GREEDY)
    assert stopped.tolist() == [inputs["input_ids"][0].tolist() + new[:3]]
    assert seen == new[:3]
    assert streamer.pieces[1:] == [[token] for token in new[:3]] + ["end"]


def test_compressed_generation_returns_what_was_asked_for(model):
    inputs = picture()
    plain = model.generate(**inputs, compression=HALF, **GREEDY)
    given = inputs.pop("input_ids")
    assert torch.equal(model.generate(given, **inputs, compression=HALF, **GREEDY), plain)
    output = model.generate(given, **inputs, compression=HALF, return_dict_in_generate=True, output_scores=True, **GREEDY)
    assert torch.equal(output.sequences, plain)
    assert len(output.scores) == 7
    beams = model.generate(given, **inputs, compression=HALF, num_beams=3, num_return_sequences=2, **GREEDY)
    assert torch.equal(beams[:, : given.shape[1]], given.expand(2, -1))
    assert beams.shape == (2, given.shape[1] + 7)


@pytest.mark.parametrize("inputs", [picture(detail=0), prompt(5), prompt(5, 3)], ids=["no detail level", "text", "two texts"])
def test_where_there_is_nothing_to_compress_nothing_changes(model, inputs):
    with torch.no_grad():
        assert torch.equal(model(**inputs, compression=HALF).logits, model(**inputs).logits)
    assert torch.equal(model.generate(**inputs, compression=HALF, **GREEDY), model.generate(**inputs, **GREEDY))


def two(inputs: dict) -> dict:
    return {name: torch.cat((tensor, tensor)) for name, tensor in inputs.items()}


def with_padding(inputs: dict) -> dict:
    ids = torch.nn.functional.pad(inputs["input_ids"], (2, 0))
    return inputs | {"input_ids": ids, "attention_mask": (ids != 0).long()}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (two(picture()), "one prompt with one picture, as published; got 2 with 2"),
        (with_padding(picture()), "leave padding out"),
        ({k: v for k, v in picture().items() if k != "level_tiles"}, "needs level_tiles"),
        (picture() | {"compression": "scm-reference"}, "compression='scm-reference': expected a CompressionSpec"),
        (picture() | {"position_ids": torch.arange(14)[None]}, "leave out .*position_ids"),
    ],
)
def test_what_cannot_be_compressed_is_one_error(model, inputs, message):
    for run in (model, model.generate):
        with pytest.raises(UsageError, match=message):
            run(**{"compression": HALF} | inputs)


def test_compression_belongs_to_a_prompt_at_inference(model):
    inputs = picture()
    with pytest.raises(UsageError, match="leave out labels"):
        model(**inputs, labels=inputs["input_ids"], compression=HALF)
    begun = model.generate(**inputs, return_dict_in_generate=True, **GREEDY)
    with pytest.raises(UsageError, match=f"leave out {CACHE},"):
        model.generate(**inputs, cache=begun[CACHE], compression=HALF)
    with pytest.raises(UsageError, match="give input_ids, not embeddings"):
        model(inputs_embeds=torch.zeros(1, 9, 32), pixel_values=inputs["pixel_values"], compression=HALF)


SCM, UNIFORM = CompressionSpec("scm", keep_ratio=0.5), CompressionSpec("uniform", keep_ratio=0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (CACHE, DynamicCache()),
        ("output_hidden_states", True),
        ("output_attentions", True),
        ("cache_implementation", "static"),
        ("cache_implementation", "quantized"),
        ("generation_config", GenerationConfig(cache_implementation="static", eos_token_id=2, pad_token_id=0, **GREEDY)),
    ],
)
def test_a_prompt_that_is_read_while_it_is_compressed_is_refused_what_it_cannot_give(model, name, value):
    """scm reads into a cache of its own, and layers after the second read fewer tokens: `forward` and `generate` say so alike."""
    inputs = picture() | {name: value} | ({} if name == "generation_config" else GREEDY)
    missing = "cache_implementation" if name == "generation_config" else name
    line = f"^scm changes which tokens there are: leave out {missing}$"
    with pytest.raises(UsageError, match=line):
        model.generate(**inputs, compression=SCM)
    if name in (CACHE, "output_hidden_states", "output_attentions"):
        with pytest.raises(UsageError, match=line), torch.no_grad():
            model(**picture(), **{name: value}, compression=SCM)
    with torch.no_grad():
        read = model.model.compress(SCM, **picture())
    kept = read.ids(picture()["input_ids"], 0)
    with pytest.raises(UsageError, match=f"^compression changes which tokens there are: leave out {missing}$"):
        model.generate(kept, compressed_prompt=read, **{name: value} | ({} if name == "generation_config" else GREEDY))


def test_what_it_would_have_anyway_is_no_reason_to_refuse(model):
    plain = model.generate(**picture(), compression=SCM, **GREEDY)
    same = {"cache_implementation": "dynamic", "output_attentions": False, CACHE: None, "use_cache": True}
    assert torch.equal(model.generate(**picture(), compression=SCM, **same, **GREEDY), plain)
    text = model.generate(**prompt(5), **GREEDY)
    assert torch.equal(model.generate(**prompt(5), compression=SCM, cache_implementation="static", **GREEDY), text)


def test_a_cache_that_is_given_is_filled_by_selectors_that_choose_before_the_model(model):
    cache = DynamicCache()
    model.generate(**picture(), compression=UNIFORM, cache=cache, **GREEDY)
    assert cache.get_seq_length() == 14 - 2 + 7 - 1


@pytest.mark.parametrize("compression", [SCM, UNIFORM], ids=["scm", "uniform"])
@pytest.mark.parametrize("where", ["call", "configuration"])
def test_what_keeps_no_cache_keeps_nothing_of_a_compressed_prompt(model, compression, where):
    config = GenerationConfig(use_cache=False, eos_token_id=2, pad_token_id=0, **GREEDY)
    settings = GREEDY | {"use_cache": False} if where == "call" else {"generation_config": config}
    with pytest.raises(UsageError, match="^use_cache=False: what compression keeps is kept in the cache"):
        model.generate(**picture(), compression=compression, **settings)


@pytest.mark.parametrize("compression", [SCM, UNIFORM], ids=["scm", "uniform"])
@pytest.mark.parametrize("where", ["call", "configuration"])
def test_a_compressed_prompt_is_not_read_in_chunks(model, compression, where):
    """Its first forward would read all of it, and the next chunks once more behind it."""
    config = GenerationConfig(prefill_chunk_size=4, eos_token_id=2, pad_token_id=0, **GREEDY)
    settings = GREEDY | {"prefill_chunk_size": 4} if where == "call" else {"generation_config": config}
    with pytest.raises(UsageError, match="^prefill_chunk_size=4: compression reads a prompt in one piece; leave one of the two"):
        model.generate(**picture(), compression=compression, **settings)
    text = model.generate(**prompt(9), **GREEDY)
    assert torch.equal(model.generate(**prompt(9), compression=compression, **settings), text)


@pytest.mark.parametrize("compression", [SCM, UNIFORM], ids=["scm", "uniform"])
def test_an_assistant_is_refused_a_compressed_prompt_alone(model, compression):
    settings = GREEDY | {"assistant_model": randomised(MiniMonkeyForConditionalGeneration(model.config), seed=1)}
    with pytest.raises(UsageError, match="^compression .*: leave out assistant_model$") as caught:
        model.generate(**picture(), compression=compression, **settings)
    assert "\n" not in str(caught.value)
    for inputs, spec in ((picture(), None), (picture(detail=0), compression)):
        assert torch.equal(model.generate(**inputs, compression=spec, **settings), model.generate(**inputs, **GREEDY))


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # transformers' own collector of outputs
def test_steps_after_a_compressed_prompt_compile_in_one_graph(model):
    compiled = CompileConfig(fullgraph=True, backend="eager", mode=None)
    compiled._compile_all_devices = True  # else on accelerators alone
    plain = model.generate(**picture(), compression=UNIFORM, **GREEDY)
    settings = {"cache_implementation": "static", "compile_config": compiled}
    assert torch.equal(model.generate(**picture(), compression=UNIFORM, **settings, **GREEDY), plain)
