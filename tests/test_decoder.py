"""The walk through a language model's layers, and where a layer looks, against transformers' own forward and attention maps."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, LlamaConfig, Phi3Config, Qwen2Config, Qwen3Config

from minimonkey.decoder import attention_in_layer, walk, window
from minimonkey.errors import UsageError
from minimonkey.pyramid import Span

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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_the_walk_gives_the_models_hidden_states(text, embeddings, attention):
    text.set_attn_implementation(attention)
    expected = text(inputs_embeds=embeddings, output_hidden_states=True)
    assert_close(walk(text, embeddings, range(1)), expected.hidden_states[1], rtol=0, atol=1e-5)
    halfway = walk(text, embeddings, range(2))
    assert_close(halfway, expected.hidden_states[2], rtol=0, atol=1e-5)
    assert_close(text.norm(walk(text, halfway, range(2, 3))), expected.last_hidden_state, rtol=0, atol=1e-5)
    assert not torch.allclose(halfway, embeddings, atol=0.1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_where_the_second_layer_looks_is_read_off_no_map(text, embeddings, attention):
    text.set_attn_implementation("eager")
    maps = text(inputs_embeds=embeddings, output_attentions=True).attentions
    span = Span(5, 16)
    text.set_attn_implementation(attention)
    scores = attention_in_layer(text, embeddings, 1, span)
    assert_close(scores, maps[1][0, :, 16:, 5:16].mean(dim=(0, 1)), rtol=1e-4, atol=1e-6)
    if window(text, 1):
        assert scores[:4].tolist() == [0.0] * 4  # the first row that counts, 16, sees 10 to 16
    else:
        assert scores.min() > 0


@torch.no_grad()
def test_a_layer_that_is_not_there(text, embeddings):
    with pytest.raises(UsageError, match="layer 4 of the language model, which has 3: leave it out"):
        attention_in_layer(text, embeddings, 3, Span(5, 16))
