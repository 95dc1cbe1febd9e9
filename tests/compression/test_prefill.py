"""Prompts that lose tokens on their way, against a naive reference: full attention maps, no cache, all tokens anew each time."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close
from transformers import AttentionInterface, GenerationConfig, InternVLForConditionalGeneration

from minimonkey.compression import selectors
from minimonkey.compression.spec import SELECTORS, CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.language_model.layers import CACHE, sliding_window
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration

IMAGE, TILE_PX, TOKENS_A_TILE, NEW = 5, 28, 4, 5
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
TEXTS = {
    "llama": {},
    "llama beyond its window": {"rope_parameters": DYNAMIC, "max_position_embeddings": 24},  # InternLM2
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "qwen2 with windows": {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    "phi3": {},
    "phi3 with windows": {"sliding_window": 20},
    "phi3 beyond its window": {"rope_parameters": LONG | {"original_max_position_embeddings": 24}, "max_position_embeddings": 96},
}


def make(name: str) -> MiniMonkeyForConditionalGeneration:
    """A model of four layers, every tensor random, norms and biases too."""
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None, "tie_word_embeddings": False}
    sizes = {"num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 512, "num_hidden_layers": 4}
    config = MiniMonkeyConfig(
        text_config={"model_type": name.split()[0]} | layers | sizes | special | TEXTS[name],
        vision_config=layers | {"image_size": TILE_PX, "patch_size": 7, "num_hidden_layers": 2, "use_qk_norm": True},
        image_token_id=IMAGE,
        image_seq_length=TOKENS_A_TILE,
        tie_word_embeddings=False,
    )
    model = MiniMonkeyForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(scope="module", params=TEXTS)
def model(request):
    return make(request.param)


@pytest.fixture(scope="module")
def qwen2():
    return make("qwen2")


def batch(*rows: list, seed: int = 0) -> dict:
    """Rows of text lengths and, as tuples, tiles of pictures (detail, adaptive, thumbnail): left padded, every tile another."""
    tokens, levels = [], []
    for row in rows:
        tokens.append([])
        for part in row:
            if isinstance(part, tuple):
                levels.append(part)
                tokens[-1] += [7] + [IMAGE] * (TOKENS_A_TILE * sum(part)) + [8]
            else:
                tokens[-1] += [9 + (5 * i + part) % 50 for i in range(part)]
    longest = max(map(len, tokens))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in tokens])
    tiles = [
        torch.randn(3, TILE_PX, TILE_PX, generator=torch.Generator().manual_seed(seed + i)) for i in range(sum(map(sum, levels)))
    ]
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return inputs | ({"pixel_values": torch.stack(tiles), "level_tiles": torch.tensor(levels)} if levels else {})


ONE = [3, (3, 2, 1), 6]
"""One prompt: 12 detail tokens at 4 to 15, 8 adaptive ones, 4 of the thumbnail, then text from 28 to 34."""
DETAIL, LATER_TILES, LATER_TEXT = range(4, 16), range(16, 28), range(28, 35)


def embedded(model, inputs) -> torch.Tensor:
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    features = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output.flatten(0, 1)
    embeddings[inputs["input_ids"] == IMAGE] = features
    return embeddings


def read_naively(model, embeddings, dropped: list[int], length: int) -> torch.Tensor:
    """Logits [1, L - dropped, V] where the tokens after `length`, the prompt's, never see those dropped, and the layers from the
    third on none does."""
    text = model.model.language_model
    places, kept = torch.arange(embeddings.shape[1]), [place for place in range(embeddings.shape[1]) if place not in dropped]
    cos_sin = text.rotary_emb(embeddings, position_ids=places[None])
    early, late = torch.ones(len(places), len(places)).tril() == 0, torch.ones(len(kept), len(kept)).tril() == 0
    early[length:, dropped] = True
    hidden = embeddings
    for index, layer in enumerate(text.layers):
        if index == 2:
            hidden, cos_sin = hidden[:, kept], tuple(part[:, kept] for part in cos_sin)
        unseen = (early if index < 2 else late).clone()
        if (seen := sliding_window(text, index)) is not None:  # of the tokens that there are for a row
            behind = torch.ones(late.shape).tril(-seen) == 1
            unseen |= torch.ones(early.shape).tril(-seen) == 1 if index < 2 else behind
            if index < 2 and length < len(places):
                unseen[length:] = True
                unseen[length:, kept] = (late | behind)[length - len(places) :]
        mask = torch.zeros(unseen.shape).masked_fill(unseen, float("-inf"))
        hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=cos_sin)
    return model.lm_head(text.norm(hidden))


@torch.no_grad()
def scm_naively(model, inputs, queries, keep_ratio: float) -> tuple[torch.Tensor, list[int], torch.Tensor, list[int]]:
    """Scores, selected, logits of the prompt, and the greedy ids that follow: what scm has to come to."""
    model.set_attn_implementation("eager")
    embeddings = embedded(model, inputs)
    length = embeddings.shape[1]
    maps = model.model.language_model(inputs_embeds=embeddings, output_attentions=True).attentions[1][0]
    scores = maps[:, list(queries)][:, :, list(DETAIL)].mean(dim=(0, 1))
    ranks = sorted(range(len(DETAIL)), key=lambda token: (-float(scores[token]), token))
    selected = sorted(ranks[: int(keep_ratio * len(DETAIL))])
    dropped = [DETAIL[token] for token in range(len(DETAIL)) if token not in selected]
    said: list[int] = []
    for _ in range(NEW):
        whole = torch.cat((embeddings, model.get_input_embeddings()(torch.tensor([said], dtype=torch.long))), dim=1)
        logits = read_naively(model, whole, dropped, length)
        if not said:
            first = logits
        said.append(int(logits[0, -1].argmax()))
    return scores, selected, first, said


ASKED = {"all": [*LATER_TILES, *LATER_TEXT], "vision": [*LATER_TILES]}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("spec", "queries"),
    [
        (CompressionSpec("scm", 0.5), ASKED["all"]),
        (CompressionSpec("scm", 0.25, queries="vision"), ASKED["vision"]),
        (CompressionSpec("scm", 0.05), ASKED["all"]),  # nothing stays
        (CompressionSpec("fastv", 0.5), [LATER_TEXT[-1]]),
    ],
    ids=lambda value: f"{value.selector}-{value.keep_ratio}-{value.queries}" if isinstance(value, CompressionSpec) else "",
)
@torch.no_grad()
def test_scm_is_what_full_maps_say(model, spec, queries, attention):
    inputs = batch(ONE)
    scores, selected, logits, said = scm_naively(model, inputs, queries, spec.keep_ratio)
    model.set_attn_implementation(attention)
    compressed = model.model.compress(spec, **inputs)
    (selection,) = compressed.selections
    assert_close(selection.scores, scores, rtol=1e-4, atol=1e-6)
    assert (selection.selected.tolist(), selection.detail) == (selected, (4, 16))
    kept = [0, 1, 2, 3, *(4 + token for token in selected), *range(16, 35)]
    assert compressed.index.tolist() == compressed.positions.tolist() == [kept]
    assert [layer.keys.shape[2] for layer in compressed.cache.layers] == [len(kept)] * 4

    output = model(**inputs, compression=spec)
    assert_close(output.logits, logits, rtol=1e-4, atol=1e-4)
    whole = model.generate(**inputs, compression=spec, max_new_tokens=NEW, do_sample=False)
    assert whole.tolist() == [inputs["input_ids"][0].tolist() + said]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_to_keep_all_is_to_compress_nothing(model, attention):
    model.set_attn_implementation(attention)
    inputs = batch(ONE, [2, (2, 0, 1), 1, (2, 2, 1), 4], [5])
    real = inputs["attention_mask"].bool()
    positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    plain = model(**inputs, position_ids=positions).logits
    said = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    for selector in set(SELECTORS) - {"scm-reference"}:
        spec = CompressionSpec(selector, keep_ratio=1)
        assert_close(model(**inputs, compression=spec).logits[real], plain[real], rtol=1e-4, atol=1e-4)
        assert torch.equal(model.generate(**inputs, compression=spec, max_new_tokens=NEW, do_sample=False), said)
    alone = batch(ONE)
    scm = model(**alone, compression=CompressionSpec("scm", keep_ratio=1)).logits
    assert_close(scm, model(**alone).logits, rtol=0, atol=1e-5)


ROWS = ([3, (3, 2, 1), 6], [1, (2, 0, 1), 2, (4, 1, 1), 9], [4, (0, 0, 1), 3], [7])
"""A picture; two pictures; one without a detail level; none."""
SPECS = [CompressionSpec(selector, 0.5) for selector in SELECTORS if selector != "scm-reference"]
SPECS += [
    CompressionSpec("scm", 0.3, queries="vision"),
    CompressionSpec("scm", positions="compact"),
    CompressionSpec("scm", budget="tile"),
    CompressionSpec("mmr", budget="tile", positions="compact"),
]
OF_EVERY_MODEL = [CompressionSpec("scm"), CompressionSpec("scm", positions="compact"), CompressionSpec("uniform")]
BATCHES = [("qwen2", spec) for spec in SPECS] + [(name, spec) for name in TEXTS if name != "qwen2" for spec in OF_EVERY_MODEL]


def told(param: object) -> str | None:
    return f"{param.selector}-{param.queries}-{param.positions}-{param.budget}" if isinstance(param, CompressionSpec) else None


@pytest.mark.parametrize(("model", "spec"), BATCHES, ids=told, indirect=["model"])
def test_a_row_gives_the_same_alone_and_in_a_batch(model, spec):
    inputs = batch(*ROWS)
    new = model.generate(**inputs, compression=spec, max_new_tokens=NEW, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    with torch.no_grad():
        together = model.model.compress(spec, **inputs)
        logits = model(**inputs, compression=spec).logits
    assert len(set(together.mask.sum(dim=1).tolist())) > 2
    first = 0
    for row, parts in enumerate(ROWS):
        tiles = sum(sum(part) for part in parts if isinstance(part, tuple))
        single = batch(parts, seed=first)
        first += tiles
        alone = model.generate(**single, compression=spec, max_new_tokens=NEW, do_sample=False)
        assert alone[0, single["input_ids"].shape[1] :].tolist() == new[row].tolist()
        with torch.no_grad():
            single_logits = model(**single, compression=spec).logits
        count = int(together.mask[row].sum())
        assert_close(logits[row, -count:], single_logits[0], rtol=1e-4, atol=1e-4)
        assert (
            together.positions[row, -count:].max() == (count if spec.positions == "compact" else single["input_ids"].shape[1]) - 1
        )


def flash_attention(module, query, key, value, mask, scaling=None, sliding_window=None, position_ids=None, **_) -> tuple:
    """What kernels of flash attention give: [B, L, H, C] without maps. Rows are cut down to what the mask [B, S] leaves in; a row
    without one, whose positions have gaps, is taken for several texts that begin at 0 each."""
    rows, _, length, _ = query.shape
    before = key.shape[2] - length
    if mask is None and rows == 1 and position_ids is not None and (position_ids.diff() != 1).any():
        begins = (position_ids[0] == 0).nonzero()[:, 0].tolist()
        texts = [(0, torch.arange(*ends), torch.arange(*ends)) for ends in pairwise([*begins, length])]
    else:
        seen = [torch.arange(key.shape[2]) if mask is None else mask[row].nonzero()[:, 0] for row in range(rows)]
        texts = [(row, places[places >= before] - before, places) for row, places in enumerate(seen)]
    output = torch.zeros(rows, length, query.shape[1], value.shape[3])
    for row, asking, asked in texts:
        group = query.shape[1] // key.shape[1]
        keys, values = (part[row, :, asked].repeat_interleave(group, dim=0) for part in (key, value))
        places = torch.arange(len(asked))
        own = places[-len(asking) :, None]
        unseen = (places > own) | (places <= own - (sliding_window or len(places)))
        logits = (query[row, :, asking] @ keys.transpose(1, 2) * scaling).masked_fill(unseen, float("-inf"))
        output[row, asking] = (logits.softmax(dim=-1) @ values).transpose(0, 1)
    return output, None


@pytest.mark.parametrize("spec", [*OF_EVERY_MODEL, CompressionSpec("scm", 0.3, queries="vision")], ids=told)
def test_flash_attention_sees_the_same(monkeypatch, model, spec):
    """Its masks have no maps either: what rows lose, and gaps between positions, mustn't confuse it."""
    masks = []

    def kernel(*arguments, **settings):
        masks.append(arguments[4])
        return flash_attention(*arguments, **settings)

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", kernel)
    text = model.model.language_model
    before = text.config._attn_implementation
    for rows in ([ONE], ROWS):
        inputs = batch(*rows)
        expected = model.generate(**inputs, compression=spec, max_new_tokens=3, do_sample=False)
        del masks[:]
        monkeypatch.setattr(text.config, "_attn_implementation", "flash_attention_2")
        assert torch.equal(model.generate(**inputs, compression=spec, max_new_tokens=3, do_sample=False), expected)
        monkeypatch.setattr(text.config, "_attn_implementation", before)
        assert len(masks) >= 4 * 3
        assert {mask is None for mask in masks} == {len(rows) == 1}


@torch.no_grad()
def test_two_pictures_lose_tokens_each_by_itself(qwen2):
    inputs = batch([1, (2, 0, 1), 2, (4, 1, 1), 9])
    first, second = qwen2.model.compress(CompressionSpec("scm", 0.5), **inputs).selections
    assert ((first.picture, first.detail), (second.picture, second.detail)) == ((0, (2, 10)), (1, (18, 34)))
    assert (len(first.selected), len(second.selected)) == (4, 8)
    other = batch([1, (2, 0, 1), 2, (4, 1, 1), 9])
    other["pixel_values"][3:] += 1  # the second picture, which doesn't ask about the first
    assert torch.equal(
        qwen2.model.compress(CompressionSpec("scm", 0.5, queries="vision"), **other).selections[0].scores,
        qwen2.model.compress(CompressionSpec("scm", 0.5, queries="vision"), **inputs).selections[0].scores,
    )


@torch.no_grad()
def test_question_free_means_free_of_the_question(qwen2):
    one, other = batch(ONE), batch(ONE)
    other["input_ids"][0, 30:] = 11
    for selector in SELECTORS:
        if selector not in ("scm-reference", "fastv"):
            free = CompressionSpec(selector, 0.5, queries="vision")
            assert not free.depends_on_question
            assert torch.equal(qwen2.model.compress(free, **one).index, qwen2.model.compress(free, **other).index)


@torch.no_grad()
def test_the_budget_of_tiles(qwen2):
    """Three tiles of four tokens: two of each tile, where the picture's budget takes them as they come."""
    inputs = batch(ONE)
    by_tile = qwen2.model.compress(CompressionSpec("scm", 0.5, budget="tile"), **inputs).selections[0]
    assert by_tile.selected.div(4, rounding_mode="floor").tolist() == [0, 0, 1, 1, 2, 2]
    by_picture = qwen2.model.compress(CompressionSpec("scm", 0.5), **inputs).selections[0]
    assert torch.equal(by_tile.scores, by_picture.scores)
    assert by_picture.selected.tolist() == selectors.best(by_picture.scores, 6).tolist()
    assert (
        by_tile.selected.view(3, 2).tolist()
        == (selectors.best(by_tile.scores.view(3, 4), 2) + torch.tensor([[0], [4], [8]])).tolist()
    )


@torch.no_grad()
def test_selectors_before_the_language_model_only_take_tokens_out(qwen2):
    """What they choose is tested on its own; here, that it is asked of the right tokens, and that nothing else changes."""
    inputs = batch(ONE)
    embeddings = embedded(qwen2, inputs)
    detail, asked = embeddings[:, list(DETAIL)], embeddings[0, ASKED["all"]]
    tiles = detail.view(3, 4, -1)
    expected = {
        "random": selectors.at_random(1, 12, 6, seed=0),
        "uniform": selectors.evenly(1, 12, 6),
        "divprune": selectors.diverse(detail, 6),
        "mmr": selectors.marginal(detail, selectors.relevance(detail, asked), 6),
        "cdpruner": selectors.relevant_and_diverse(tiles, selectors.relevance(tiles, asked), 2) + torch.tensor([[0], [4], [8]]),
    }
    text = qwen2.model.language_model
    for selector, picks in expected.items():
        selected = picks.flatten()
        compressed = qwen2.model.compress(CompressionSpec(selector, 0.5), **inputs)
        assert compressed.selections[0].selected.tolist() == selected.tolist()
        kept = [*range(4), *(4 + selected).tolist(), *range(16, 35)]
        assert compressed.positions.tolist() == [kept]
        assert torch.equal(compressed.embeddings, embeddings[:, kept])
        hidden = text(inputs_embeds=embeddings[:, kept], attention_mask=torch.ones(1, 29), position_ids=torch.tensor([kept]))
        logits = qwen2(**inputs, compression=CompressionSpec(selector, 0.5), use_cache=False).logits
        assert_close(logits, qwen2.lm_head(hidden.last_hidden_state))


@torch.no_grad()
def test_downsampled_tokens_are_averages(qwen2):
    inputs = batch(ONE)
    embeddings = embedded(qwen2, inputs)
    compressed = qwen2.model.compress(CompressionSpec("downsample", 0.5), **inputs)  # 1 row of 2 columns a tile
    assert compressed.selections[0].selected.tolist() == [0, 1, 4, 5, 8, 9]
    upper, lower = embeddings[0, list(DETAIL)].view(3, 2, 2, -1).unbind(dim=1)
    assert_close(compressed.embeddings[0, 4:10], ((upper + lower) / 2).flatten(0, 1))
    assert torch.equal(compressed.embeddings[0, 10:], embeddings[0, 16:])


@torch.no_grad()
def test_visionzip_goes_by_the_encoders_class_token(qwen2):
    """Against the encoder's own eager attention maps; patches 2 x 2 make a token, and equal tiles are encoded once."""
    inputs = batch(ONE)
    inputs["pixel_values"][2] = inputs["pixel_values"][0]
    seen = []
    tower = qwen2.model.vision_tower
    handle = tower.encoder.layer[-1].attention.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    tower.set_attn_implementation("eager")
    tower(pixel_values=inputs["pixel_values"])
    handle.remove()
    tower.set_attn_implementation("sdpa")
    patches = seen[0][:, :, 0, 1:].mean(dim=1).view(6, 2, 2, 2, 2)  # tile, row, row in token, column, column in token
    expected = patches.sum(dim=(2, 4)).flatten()
    selection = qwen2.model.compress(CompressionSpec("visionzip", 0.5), **inputs).selections[0]
    assert_close(selection.scores, expected[:12], rtol=1e-4, atol=1e-6)
    assert selection.selected.tolist() == selectors.best(expected[:12], 6).tolist()

    output = qwen2.get_image_features(pixel_values=inputs["pixel_values"], cls_attention=True)
    assert_close(output.attentions[0], seen[0][:, :, 0, 1:].mean(dim=1), rtol=1e-4, atol=1e-6)
    ready = {name: value for name, value in inputs.items() if name != "pixel_values"} | {"mm_encoder_outputs": {"image": output}}
    again = qwen2.model.compress(CompressionSpec("visionzip", 0.5), **ready).selections[0]
    assert torch.equal(again.scores, selection.scores)
    ready["mm_encoder_outputs"] = {"image": qwen2.get_image_features(pixel_values=inputs["pixel_values"])}
    with pytest.raises(UsageError, match="visionzip watches the encoder: give pixel_values"):
        qwen2.model.compress(CompressionSpec("visionzip", 0.5), **ready)


def test_generate_tells_what_is_kept(qwen2):
    inputs, selections = batch(*ROWS), []
    spec = CompressionSpec("uniform", 0.25)
    qwen2.generate(**inputs, compression=spec, selections=selections, max_new_tokens=2, do_sample=False)
    assert [(one.picture, one.row, one.selected.tolist()) for one in selections] == [
        (0, 0, [2, 6, 10]),
        (1, 1, [2, 6]),
        (2, 1, [2, 6, 10, 14]),
    ]


@pytest.mark.parametrize("spec", [CompressionSpec("scm"), CompressionSpec("divprune")], ids=lambda spec: spec.selector)
def test_beams_and_samples_share_one_prompt(qwen2, spec):
    inputs = batch(*ROWS[:2])
    length = inputs["input_ids"].shape[1]
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": NEW, "do_sample": False, "compression": spec}
    together = qwen2.generate(**inputs, **beams)
    assert torch.equal(together[:, :length], inputs["input_ids"].repeat_interleave(2, dim=0))
    alone = batch(ROWS[0])
    assert torch.equal(together[:2, length:], qwen2.generate(**alone, **beams)[:, alone["input_ids"].shape[1] :])
    best = qwen2.generate(**inputs, compression=spec, num_beams=1, max_new_tokens=NEW, do_sample=False)
    assert not torch.equal(best, together[::2])  # beams look further
    torch.manual_seed(0)
    samples = {"do_sample": True, "temperature": 1e-4, "num_return_sequences": 3}  # as good as greedy
    drawn = qwen2.generate(**inputs, compression=spec, max_new_tokens=NEW, **samples)
    assert torch.equal(drawn, best.repeat_interleave(3, dim=0))


def test_what_goes_on_in_the_models_own_cache(qwen2):
    """By hand: a compressed prefill, then token by token, positions going on from the prompt's."""
    inputs, spec = batch(ONE), CompressionSpec("scm", 0.5)
    whole = qwen2.generate(**inputs, compression=spec, max_new_tokens=NEW, do_sample=False)
    said, position = [], inputs["input_ids"].shape[1]
    with torch.no_grad():
        output = qwen2(**inputs, compression=spec)
        for step in range(NEW):
            said.append(int(output.logits[0, -1].argmax()))
            here = torch.tensor([[position + step]])
            cache = output[CACHE]
            output = qwen2(input_ids=torch.tensor([said[-1:]]), position_ids=here, cache=cache, compression=spec)
    assert whole[0, position:].tolist() == said
    with torch.no_grad():
        assert qwen2(**inputs, compression=spec, use_cache=False).get(CACHE) is None


@pytest.mark.parametrize("name", [name for name in TEXTS if "beyond" not in name])
@torch.no_grad()
def test_questions_go_on_from_pictures_that_were_compressed_without_them(name):
    """Two questions behind one prefix, of different length where no window counts padding, against whole prompts."""
    model, spec, lengths = make(name), CompressionSpec("scm", 0.5, queries="vision"), (6, 6 if "windows" in name else 4)
    prefix, questions = batch([3, (3, 2, 1)]), batch(*([length] for length in lengths))
    compressed = model.model.compress(spec, **prefix)
    kept = torch.cat((compressed.ids(prefix["input_ids"], 0).expand(2, -1), questions["input_ids"]), dim=1)
    for _ in range(2):  # what is repeated stays as it is
        embeddings = model.get_input_embeddings()(questions["input_ids"])
        both = compressed.repeat_rows(2).extended(model.model.language_model, embeddings, questions["attention_mask"])
        hidden, places = both.hidden.clone(), both.positions.clone()
        said = model.generate(kept, compressed_prompt=both, attention_mask=both.mask, max_new_tokens=NEW, do_sample=False)
        assert torch.equal(said[:, : kept.shape[1]], kept)
        read = model.generate(
            kept, compressed_prompt=compressed.repeat_rows(2), attention_mask=both.mask, max_new_tokens=NEW, do_sample=False
        )
        assert torch.equal(read, said)
        for row, length in enumerate(lengths):
            whole, real = batch([3, (3, 2, 1), length]), both.mask[row].bool()
            fresh = model.model.compress(spec, **whole)
            assert places[row, real].tolist() == fresh.positions[0].tolist()
            assert_close(hidden[row, -length:], fresh.hidden[0, -length:], rtol=1e-4, atol=1e-4)
            expected = model.generate(**whole, compression=spec, max_new_tokens=NEW, do_sample=False)
            assert said[row, kept.shape[1] :].tolist() == expected[0, whole["input_ids"].shape[1] :].tolist()
    assert (compressed.cache.get_seq_length(), compressed.early_cache.get_seq_length()) == (23, 29)


@pytest.mark.parametrize("selector", ["scm", "uniform"])
@torch.no_grad()
def test_what_was_compressed_before_may_be_read_later(qwen2, selector):
    inputs, spec = batch(*ROWS[:2]), CompressionSpec(selector)
    expected = qwen2(**inputs, compression=spec).logits
    compressed = qwen2.model.compress(spec, **inputs)
    kept = compressed.ids(inputs["input_ids"], pad_token_id=0)
    assert kept[0, compressed.mask[0] == 0].tolist() == [0] * (40 - 29)
    assert kept[1].tolist() == inputs["input_ids"][1, compressed.index[1]].tolist()
    assert torch.equal(qwen2(compressed_prompt=compressed).logits, expected)
    last = qwen2(input_ids=kept, compressed_prompt=qwen2.model.compress(spec, **inputs), logits_to_keep=1)
    assert_close(last.logits, expected[:, -1:])
    assert last[CACHE].get_seq_length() == 40


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"output_attentions": True}, "leave out output_attentions"),
        ({"position_ids": torch.arange(35)[None]}, "leave out position_ids"),
        ({"labels": torch.zeros(1, 35, dtype=torch.long)}, "leave out labels"),
    ],
)
def test_what_forward_cannot_give(qwen2, more, message):
    with pytest.raises(UsageError, match=message):
        qwen2(**batch(ONE), compression=CompressionSpec("scm"), **more)


@pytest.mark.parametrize("spec", [CompressionSpec("scm"), CompressionSpec("uniform")], ids=lambda spec: spec.selector)
@pytest.mark.parametrize("given_by", ["call", "config", "model"])
def test_lengths_count_the_whole_prompt(monkeypatch, qwen2, spec, given_by):
    """As they do without compression, whoever sets them."""
    inputs, length = batch(ONE), 35

    def generate(**lengths):
        if given_by == "call":
            return qwen2.generate(**inputs, compression=spec, do_sample=False, eos_token_id=stops, **lengths)
        config = GenerationConfig(do_sample=False, eos_token_id=stops, pad_token_id=0, **lengths)
        if given_by == "config":
            return qwen2.generate(**inputs, compression=spec, generation_config=config)
        monkeypatch.setattr(qwen2, "generation_config", config)
        return qwen2.generate(**inputs, compression=spec)

    stops = None
    said = qwen2.generate(**inputs, compression=spec, do_sample=False, max_new_tokens=NEW)
    assert generate(max_length=length + NEW).tolist() == said.tolist()
    stops = int(said[0, length])
    assert generate(max_length=length + NEW).shape[1] == length + 1
    held_back = qwen2.generate(
        **inputs, compression=spec, do_sample=False, max_new_tokens=NEW, min_new_tokens=3, eos_token_id=stops
    )
    assert held_back.shape[1] > length + 3
    assert generate(max_length=length + NEW, min_length=length + 3).tolist() == held_back.tolist()


def test_counts_of_new_tokens_go_before_a_models_own_lengths(qwen2, monkeypatch):
    """transformers warns where both are given, which nobody did here."""
    given = []
    monkeypatch.setattr(
        InternVLForConditionalGeneration, "generate", lambda self, ids, *_, **settings: given.append(settings) or ids
    )
    monkeypatch.setattr(qwen2, "generation_config", GenerationConfig(max_length=60, min_length=50))
    for lengths in ({}, {"max_new_tokens": 4, "min_new_tokens": 2}):
        qwen2.generate(**batch(ONE), compression=CompressionSpec("scm"), **lengths)
    names = [sorted(name for name in settings if name.endswith(("_length", "_new_tokens"))) for settings in given]
    assert names == [["max_length", "min_length"], ["max_new_tokens", "min_new_tokens"]]


@torch.no_grad()
def test_the_length_of_prompts_is_known_from_what_is_left(qwen2):
    inputs = batch(*ROWS)
    compressed = qwen2.model.compress(CompressionSpec("scm"), **inputs)
    assert compressed.dropped == inputs["input_ids"].shape[1] - compressed.index.shape[1] > 0


@pytest.mark.parametrize(("queries", "asking"), [("all", ASKED["all"]), ("vision", ASKED["vision"])])
def test_each_layer_reads_each_token_once(qwen2, queries, asking):
    """Two layers the whole prompt, the others what is left of it; besides, the second layer's queries, of the tokens that ask."""
    layers = qwen2.model.language_model.layers
    read, asked = [[] for _ in layers], []
    handles = [
        layer.register_forward_pre_hook(lambda module, arguments, seen=seen: seen.append(arguments[0].shape[1]))
        for layer, seen in zip(layers, read, strict=True)
    ]
    projection = layers[1].self_attn.q_proj
    handles.append(projection.register_forward_hook(lambda module, arguments, output: asked.append(output.shape[1])))
    spec = CompressionSpec("scm", 0.5, queries=queries)
    qwen2.generate(**batch(ONE), compression=spec, max_new_tokens=3, do_sample=False)
    for handle in handles:
        handle.remove()
    assert read == [[35, 1, 1], [35, 1, 1], [29, 1, 1], [29, 1, 1]]
    assert asked == [35, len(asking), 1, 1]


def test_a_share_is_that_of_the_decimal_number(qwen2):
    """0.28 x 25 is 7.000000000000001 and 0.29 x 100 is 28.999999999999996 as floats; nothing is lost of the second."""
    inputs, selections = batch([3, (25, 2, 1), 6]), []
    for selector in ("uniform", "scm"):
        spec = CompressionSpec(selector, 0.29)
        qwen2.generate(**inputs, compression=spec, selections=selections, max_new_tokens=1, do_sample=False)
    assert [len(selection.selected) for selection in selections] == [29, 29]


def test_generate_needs_the_cache(qwen2):
    with pytest.raises(UsageError, match="use_cache=False: what compression keeps is kept in the cache"):
        qwen2.generate(**batch(ONE), compression=CompressionSpec("scm"), use_cache=False)


def test_a_model_of_one_layer():
    model = make("qwen2")
    model.model.language_model.layers = model.model.language_model.layers[:1]
    with pytest.raises(UsageError, match="compression goes by layer 2 of the language model, which has 1: leave it out"):
        model.model.compress(CompressionSpec("scm"), **batch(ONE))
