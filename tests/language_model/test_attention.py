"""Packed heads attend to what transformers' own attention does, and are used where it's slow."""

import pytest
import torch
from torch import nn
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


@pytest.mark.parametrize("asked", [{"dropout": 0.1}, {"position_bias": torch.zeros(1, 6, 2, 11)}])
@torch.no_grad()
def test_what_else_it_may_be_asked_for_stays_too(left_to_stock, asked):
    query, keys, values = sizes(1, 2)
    packed_attention(module(3), query, keys, values, causal(2), **asked)
    assert left_to_stock == [1]


def test_training_stays_with_transformers(left_to_stock):
    query, keys, values = sizes(1, 2)
    packed_attention(module(3), query, keys, values, causal(2), dropout=0.0)
    assert left_to_stock == [1]


def test_models_whose_heads_share_keys_use_it(tiny_model):
    model = tiny_model("qwen2")
    assert model.model.language_model.config._attn_implementation == PACKED
    assert model.model.vision_tower.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert model.model.language_model.config._attn_implementation == "eager"


def test_others_stay_as_they_are(tiny_config):
    from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration

    config = tiny_config("llama")
    config.text_config.num_key_value_heads = config.text_config.num_attention_heads
    assert MiniMonkeyForConditionalGeneration(config).model.language_model.config._attn_implementation == "sdpa"
