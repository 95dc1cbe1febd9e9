"""Packed heads attend to what transformers' own attention does, and are used where it's slow."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from minimonkey.language_model import attention
from minimonkey.language_model.attention import PACKED, packed_attention

GENERATOR = torch.Generator().manual_seed(0)


def sizes(rows, length, earlier=9, heads=6, key_heads=2):
    query = torch.randn(rows, heads, length, 8, generator=GENERATOR)
    keys, values = torch.randn(2, rows, key_heads, earlier + length, 8, generator=GENERATOR)
    return query, keys, values


def module(group):
    layer = nn.Module()
    layer.num_key_value_groups, layer.is_causal = group, True
    return layer


def causal(length, earlier=9):
    return torch.ones(1, 1, length, earlier + length, dtype=torch.bool).tril(earlier)


@pytest.fixture
def left_to_stock(monkeypatch):
    """How often transformers computed."""
    calls = []

    def counting(*args, **kwargs):
        calls.append(1)
        return sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setattr(attention, "sdpa_attention_forward", counting)
    return calls


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("mask", ["none", "shared", "own"])
@pytest.mark.parametrize("length", [1, 4])
@torch.no_grad()
def test_values_are_those_of_transformers(left_to_stock, rows, mask, length):
    query, keys, values = sizes(rows, length)
    seen = None if mask == "none" else causal(length)
    if mask == "own":
        seen = seen.repeat(rows, 1, 1, 1)
        seen[-1, :, :, :3] = False
    expected, _ = sdpa_attention_forward(module(3), query, keys, values, seen, scaling=0.3)
    output, weights = packed_attention(module(3), query, keys, values, seen, scaling=0.3)
    assert weights is None
    torch.testing.assert_close(output, expected)
    assert output.is_contiguous()
    assert bool(left_to_stock) == (mask == "none" and length > 1), "the first reading of a prompt is causal without a mask"


@pytest.mark.parametrize(("heads", "key_heads", "length"), [(4, 4, 1), (6, 2, attention.MOST_QUERIES + 1)])
@torch.no_grad()
def test_what_it_would_not_make_faster_stays(left_to_stock, heads, key_heads, length):
    query, keys, values = sizes(1, length, heads=heads, key_heads=key_heads)
    packed_attention(module(heads // key_heads), query, keys, values, causal(length))
    assert left_to_stock == [1]


@pytest.mark.parametrize("asked", [{"dropout": 0.1}, {"position_bias": torch.zeros(1, 6, 2, 11)}, {"output_attentions": True}])
@torch.no_grad()
def test_what_else_it_may_be_asked_for_stays_too(left_to_stock, asked):
    query, keys, values = sizes(1, 2)
    packed_attention(module(3), query, keys, values, causal(2), **asked)
    assert left_to_stock == [1]


def test_training_stays_with_transformers(left_to_stock):
    query, keys, values = sizes(1, 2)
    packed_attention(module(3), query, keys, values, causal(2), dropout=0.0)
    assert left_to_stock == [1]


@pytest.fixture
def packed_queries(monkeypatch):
    """Numbers of queries in each call of torch's kernel: packed ones are the group's times as many."""
    kernel, seen = nn.functional.scaled_dot_product_attention, []

    def counting(query, *args, **kwargs):
        seen.append(query.shape[2])
        return kernel(query, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counting)
    return seen


@torch.no_grad()
def test_models_whose_heads_share_keys_use_it_and_are_called_sdpa(tiny_model, packed_queries):
    model = tiny_model("qwen2")
    text = model.model.language_model
    assert {part.config._attn_implementation for part in model.modules() if isinstance(part, PreTrainedModel)} == {"sdpa"}
    assert {layer.self_attn.config._attn_implementation for layer in text.layers} == {PACKED}
    ids = torch.tensor([[7]])
    packed = text(ids).last_hidden_state
    assert packed_queries == [2, 2], "two layers, groups of two heads"
    assert text.layers[0].self_attn.config.num_key_value_heads == 2

    model.set_attn_implementation("eager")
    assert text.config._attn_implementation == text.layers[0].self_attn.config._attn_implementation == "eager"
    torch.testing.assert_close(text(ids).last_hidden_state, packed)
    assert packed_queries == [2, 2]
    model.set_attn_implementation("sdpa")
    text(ids)
    assert packed_queries == [2, 2, 2, 2]


@torch.no_grad()
def test_the_callers_configuration_is_left_as_it_is(tiny_config, packed_queries):
    from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration

    config = tiny_config("qwen2")
    before = config.to_dict()
    MiniMonkeyForConditionalGeneration(config)
    assert config.to_dict() == before
    assert config.text_config._attn_implementation == "sdpa"
    stock = AutoModel.from_config(config.text_config).eval()
    assert stock.layers[0].self_attn.config is config.text_config


@torch.no_grad()
def test_copies_pack_by_their_own_configuration(tiny_model, packed_queries):
    model = tiny_model("qwen2")
    text = copy.deepcopy(model).model.language_model
    ids = torch.tensor([[7]])
    assert torch.equal(text(ids).last_hidden_state, model.model.language_model(ids).last_hidden_state)
    assert packed_queries == [2] * 4
    text.set_attn_implementation("eager")
    text(ids)
    assert packed_queries == [2] * 4
    model.model.language_model(ids)
    assert packed_queries == [2] * 6


def test_others_stay_as_they_are(tiny_config):
    from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration

    config = tiny_config("llama")
    config.text_config.num_key_value_heads = config.text_config.num_attention_heads
    text = MiniMonkeyForConditionalGeneration(config).model.language_model
    assert text.config._attn_implementation == text.layers[0].self_attn.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("rows", [[[7, 8, 9, 10], [11, 12, 13]], [[7, 8, 9, 10], [11, 12, 13, 14]]], ids=["4 and 3", "4 and 4"])
def test_continuous_batching_keeps_prompts_apart(tiny_model, rows):
    """transformers packs prompts into one row there, and makes masks by the name of the attention."""
    model = tiny_model("qwen2")
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=0, pad_token_id=0)
    room = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)  # else most of the machine's memory
    together = model.generate_batch(rows, generation_config=settings, continuous_batching_config=room, progress_bar=False)
    for row, answer in zip(rows, together.values(), strict=True):
        ids = torch.tensor([row])
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0, len(row) :].tolist()
        assert answer.error is None
        assert answer.generated_tokens == alone


def test_compiled_layers_pack_as_they_do_otherwise(tiny_model):
    text = tiny_model("qwen2").model.language_model
    ids = torch.tensor([[7]])
    with torch.no_grad():
        compiled = torch.compile(text, backend="eager", fullgraph=True)(ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(compiled, text(ids, use_cache=False).last_hidden_state)
