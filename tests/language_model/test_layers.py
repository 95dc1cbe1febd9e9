"""The walk through a language model's layers, and what a layer asks, against transformers' own forward and attention maps."""

import dataclasses
import inspect

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, DynamicCache, LlamaConfig, Phi3Config, Qwen2Config, Qwen3Config
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.internvl.modeling_internvl import InternVLModelOutputWithPast

from minimonkey.errors import UsageError
from minimonkey.language_model import layers
from minimonkey.language_model.layers import (
    CACHE,
    positions_in,
    queries_and_keys,
    rotary_cos_sin,
    run_layers,
    sliding_window,
    under_either_name,
)

LENGTH, WINDOW = 24, 7
LAYERS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
}
SLIDES = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
PARTLY_TURNED = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
CONFIGS = {
    "llama": LlamaConfig(**LAYERS),
    "llama with wide heads": LlamaConfig(**LAYERS, head_dim=16, attention_bias=True),
    "qwen2": Qwen2Config(**LAYERS),
    "qwen2, its later layers with a window": Qwen2Config(**LAYERS, **SLIDES),
    "qwen3": Qwen3Config(**LAYERS, head_dim=16),
    "phi3": Phi3Config(**LAYERS),
    "phi3 with a window, partly turned": Phi3Config(**LAYERS, sliding_window=WINDOW, rope_parameters=PARTLY_TURNED),
}


@pytest.fixture(params=CONFIGS, scope="module")
def text(request):
    """A text model with every tensor random, norms and biases too."""
    model = AutoModel.from_config(CONFIGS[request.param]).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(1, LENGTH, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def cos_sin(text, embeddings):
    return rotary_cos_sin(text, embeddings, torch.arange(LENGTH)[None])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_the_walk_gives_the_models_hidden_states(text, embeddings, cos_sin, attention):
    text.set_attn_implementation(attention)
    expected = text(inputs_embeds=embeddings, output_hidden_states=True)
    assert_close(run_layers(text, embeddings, range(1), cos_sin=cos_sin), expected.hidden_states[1], rtol=0, atol=1e-5)
    halfway = run_layers(text, embeddings, range(2), cos_sin=cos_sin)
    assert_close(halfway, expected.hidden_states[2], rtol=0, atol=1e-5)
    assert_close(text.norm(run_layers(text, halfway, range(2, 3), cos_sin=cos_sin)), expected.last_hidden_state, rtol=0, atol=1e-5)
    assert not torch.allclose(halfway, embeddings, atol=0.1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_the_walk_keeps_what_the_model_keeps(text, embeddings, attention):
    """Two rows, one of them padded, in the walk's cache and in the model's own."""
    text.set_attn_implementation(attention)
    rows, mask = embeddings.expand(2, -1, -1), torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, :5] = 0
    positions = positions_in(mask)
    assert positions[1].tolist() == [0] * 5 + list(range(LENGTH - 5))
    ours, theirs = DynamicCache(), DynamicCache()
    expected = text(inputs_embeds=rows, attention_mask=mask, position_ids=positions, **{CACHE: theirs}, use_cache=True)
    hidden = run_layers(text, rows, range(3), cos_sin=rotary_cos_sin(text, rows, positions), mask=mask, cache=ours)
    real = mask.bool()
    assert_close(text.norm(hidden)[real], expected.last_hidden_state[real], rtol=0, atol=1e-5)
    for mine, stock in zip(ours.layers, theirs.layers, strict=True):
        assert_close(mine.keys.transpose(1, 2)[real], stock.keys.transpose(1, 2)[real], rtol=0, atol=1e-5)
        assert_close(mine.values.transpose(1, 2)[real], stock.values.transpose(1, 2)[real], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_walk_makes_one_mask_for_all_layers_that_see_as_far(monkeypatch, text, embeddings, cos_sin):
    made = []
    for name in ("create_causal_mask", "create_sliding_window_causal_mask"):
        making = getattr(layers, name)
        monkeypatch.setattr(layers, name, lambda making=making, **inputs: (made.append(1), making(**inputs))[1])
    mask = torch.ones(1, LENGTH, dtype=torch.long)
    mask[0, :4] = 0
    run_layers(text, embeddings, range(3), cos_sin=cos_sin, mask=mask, cache=DynamicCache())
    assert len(made) == len({sliding_window(text, index) for index in range(3)}) <= 2


@torch.no_grad()
def test_queries_and_keys_make_the_attention_map(text, embeddings, cos_sin):
    text.set_attn_implementation("eager")
    maps = text(inputs_embeds=embeddings, output_attentions=True).attentions
    queries, keys = queries_and_keys(text, run_layers(text, embeddings, range(1), cos_sin=cos_sin), 1, cos_sin)
    logits = queries @ keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1).transpose(2, 3)
    places = torch.arange(LENGTH)
    unseen = places > places[:, None]
    if (seen := sliding_window(text, 1)) is not None:
        unseen |= places <= places[:, None] - seen
    logits = (logits * text.layers[1].self_attn.scaling).masked_fill(unseen, float("-inf"))
    assert_close(logits.softmax(dim=-1), maps[1], rtol=1e-4, atol=1e-6)


def test_masks_models_layers_and_outputs_have_one_name_for_a_cache(text):
    takers = (
        create_causal_mask,
        create_sliding_window_causal_mask,
        text.forward,
        text.layers[0].forward,
        text.layers[0].self_attn.forward,
    )
    assert [CACHE in inspect.signature(taker).parameters for taker in takers] == [True] * 5
    for output in (BaseModelOutputWithPast, InternVLModelOutputWithPast):
        assert {field.name for field in dataclasses.fields(output)} & {"cache", "past_key_values"} == {CACHE}


def test_either_name_of_a_cache():
    @under_either_name
    def taking(first, cache=None, **others):
        return first, cache, others

    assert taking(1, cache=2) == taking(1, 2) == taking(1, past_key_values=2) == (1, 2, {})
    assert taking(1, cache=2, past_key_values=None) == taking(1, cache=None, past_key_values=2) == (1, 2, {})
    assert taking(1, other=3) == (1, None, {"other": 3})
    assert list(inspect.signature(taking).parameters) == ["first", "cache", "others"]
    with pytest.raises(UsageError, match="two names of one argument"):
        taking(1, cache=2, past_key_values=2)


def test_windows(text):
    slides = getattr(text.config, "sliding_window", None) is not None
    assert sliding_window(text, 1) == (WINDOW if slides else None)
