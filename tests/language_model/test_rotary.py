"""Rotary positions without memory: transformers' values for one row, and no row or prompt that changes another."""

import math

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, LlamaConfig, LlamaModel, Phi3Config, Phi3Model, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from minimonkey.language_model.layers import CACHE
from minimonkey.language_model.rotary import DynamicRotary, LongRotary, make_stateless, stateless_rotary

WINDOW, LONG, SHORT = 16, 27, 9
LAYERS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def llama_config(**fields) -> LlamaConfig:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return LlamaConfig(**LAYERS | {"max_position_embeddings": WINDOW, "rope_parameters": rope} | fields)


def phi3_config(partial: float = 1.0, **fields) -> Phi3Config:
    pairs = int(8 * partial) // 2
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": partial,
        "short_factor": [1.0 + index / 8 for index in range(pairs)],
        "long_factor": [2.0 + index for index in range(pairs)],
    }
    sizes = {"max_position_embeddings": 8 * WINDOW, "original_max_position_embeddings": WINDOW}
    return Phi3Config(**LAYERS | sizes | {"rope_parameters": rope} | fields)


KINDS = pytest.mark.parametrize(
    ("config", "stock"),
    [(llama_config, LlamaRotaryEmbedding), (phi3_config, Phi3RotaryEmbedding), (lambda: phi3_config(0.5), Phi3RotaryEmbedding)],
    ids=["dynamic", "longrope", "longrope, half of the channels"],
)
MODELS = pytest.mark.parametrize(("model", "config"), [(LlamaModel, llama_config), (Phi3Model, phi3_config)], ids=["llama", "phi3"])


def row(length: int) -> torch.Tensor:
    return torch.arange(length)[None]


def padded_rows(*lengths: int) -> torch.Tensor:
    """Positions of rows that are padded on the left, as `generate` counts them: 0 on padding."""
    return torch.stack([(torch.arange(max(lengths)) - (max(lengths) - length)).clamp(min=0) for length in lengths])


# --- values ----------------------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("length", [1, SHORT, WINDOW, WINDOW + 1, LONG, 100])
def test_one_row_is_transformers_own_on_a_fresh_module(config, stock, length):
    x = torch.zeros(1)
    for ours, theirs in zip(stateless_rotary(config())(x, row(length)), stock(config())(x, row(length)), strict=True):
        assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_dynamic_values_follow_the_published_formula():
    cos, sin = stateless_rotary(llama_config())(torch.zeros(1), row(LONG))
    base = 10000 * ((2 * LONG / WINDOW) - 1) ** (8 / 6)
    for position in (0, 1, LONG - 1):
        angles = [position / base ** (2 * (pair % 4) / 8) for pair in range(8)]
        assert cos[0, position].tolist() == pytest.approx([math.cos(angle) for angle in angles], abs=1e-5)
        assert sin[0, position].tolist() == pytest.approx([math.sin(angle) for angle in angles], abs=1e-5)


@pytest.mark.parametrize(("length", "factors"), [(WINDOW, (1.0, 1.125, 1.25, 1.375)), (WINDOW + 1, (2.0, 3.0, 4.0, 5.0))])
def test_longrope_values_follow_the_published_formula(length, factors):
    rotary = stateless_rotary(phi3_config())
    cos, sin = rotary(torch.zeros(1), row(length))
    scaling = math.sqrt(1 + math.log(8) / math.log(WINDOW))
    assert rotary.scaling == pytest.approx(scaling) == pytest.approx(1.322876)
    angles = [(length - 1) / (factors[pair % 4] * 10000 ** (2 * (pair % 4) / 8)) for pair in range(8)]
    assert cos[0, -1].tolist() == pytest.approx([scaling * math.cos(angle) for angle in angles], abs=1e-5)
    assert sin[0, -1].tolist() == pytest.approx([scaling * math.sin(angle) for angle in angles], abs=1e-5)


def test_longrope_scaling():
    own = phi3_config().rope_parameters | {"attention_factor": 1.5}
    assert stateless_rotary(phi3_config(rope_parameters=own)).scaling == 1.5
    assert stateless_rotary(phi3_config(max_position_embeddings=WINDOW)).scaling == 1.0


def test_the_type_is_that_of_the_activations_and_the_numbers_are_float32():
    for config in (llama_config(), phi3_config()):
        rotary = stateless_rotary(config)
        exact = rotary(torch.zeros(1), row(1000))
        for ours, whole in zip(rotary.to(torch.bfloat16)(torch.zeros(1, dtype=torch.bfloat16), row(1000)), exact, strict=True):
            assert ours.dtype == torch.bfloat16
            assert torch.equal(ours, whole.to(torch.bfloat16))
        assert not rotary.state_dict() and not list(rotary.buffers())


def test_a_module_of_the_meta_device_works_elsewhere():
    with torch.device("meta"):
        rotary = stateless_rotary(phi3_config())
    assert torch.equal(rotary(torch.zeros(1), row(LONG))[0], stateless_rotary(phi3_config())(torch.zeros(1), row(LONG))[0])
    assert rotary(torch.zeros(1, device="meta"), row(LONG))[0].device.type == "meta"


# --- rows and calls --------------------------------------------------------------------------------------------------------------


@KINDS
def test_a_row_turns_as_if_it_were_alone(config, stock):
    x, rotary = torch.zeros(1), stateless_rotary(config())
    cos, sin = rotary(x, padded_rows(LONG, SHORT))
    assert cos.shape == sin.shape == (2, LONG, rotary.channels)
    for index, length in enumerate((LONG, SHORT)):
        alone = rotary(x, row(length))
        assert torch.equal(cos[index, LONG - length :], alone[0][0])
        assert torch.equal(sin[index, LONG - length :], alone[1][0])
    theirs = stock(config())(x, padded_rows(LONG, SHORT))[0]
    assert not torch.allclose(cos[1], theirs[1], atol=1e-2), "this test can't tell the two apart"


@KINDS
def test_a_prompt_leaves_nothing_behind(config, stock):
    x, rotary = torch.zeros(1), stateless_rotary(config())
    before = rotary(x, row(SHORT))
    rotary(x, row(LONG))
    assert all(map(torch.equal, rotary(x, row(SHORT)), before))


@KINDS
def test_a_decoding_step_turns_by_the_length_so_far(config, stock):
    x, rotary = torch.zeros(1), stateless_rotary(config())
    whole = [rotary(x, row(length))[0][0, -1] for length in (LONG, WINDOW + 1)]
    assert torch.equal(rotary(x, torch.tensor([[LONG - 1], [WINDOW]]))[0][:, 0], torch.stack(whole))


def batch_of(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows of ids as one batch, padded on the left."""
    length = max(map(len, rows))
    ids = torch.stack([torch.cat((torch.zeros(length - len(one), dtype=torch.long), one)) for one in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "position_ids": padded_rows(*map(len, rows))}


@MODELS
def test_a_long_row_beside_a_short_one_equals_each_alone(model, config):
    """Prefill and three steps on the cache: one row is beyond the window from the start, one never, one crosses it on the way."""
    torch.manual_seed(0)
    network = model(config()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    stock_rotary = network.rotary_emb
    make_stateless(network)
    assert isinstance(network.rotary_emb, DynamicRotary | LongRotary)
    rows = [torch.randint(1, 50, (length,)) for length in (LONG, SHORT, WINDOW - 1)]
    new = torch.randint(1, 50, (3, 3))

    def states(chosen: list[int]) -> torch.Tensor:
        """The last state of the prompt and of each step, for each of the chosen rows: float32 [rows, steps + 1, hidden]."""
        inputs, cache = batch_of([rows[index] for index in chosen]), DynamicCache(config=network.config)
        last = [network(**inputs, **{CACHE: cache}, use_cache=True).last_hidden_state[:, -1]]
        for step in range(new.shape[1]):
            mask = torch.cat((inputs["attention_mask"], torch.ones(len(chosen), step + 1, dtype=torch.long)), dim=1)
            positions = inputs["position_ids"][:, -1:] + step + 1
            ids = new[chosen, step, None]
            output = network(input_ids=ids, attention_mask=mask, position_ids=positions, **{CACHE: cache}, use_cache=True)
            last.append(output.last_hidden_state[:, -1])
        return torch.stack(last, dim=1)

    with torch.no_grad():
        together = states([0, 1, 2])
        alone = torch.cat([states([index]) for index in range(3)])
        assert_close(together, alone, rtol=1e-5, atol=2e-5)
        network.rotary_emb = stock_rotary
        assert not torch.allclose(states([0, 1, 2])[1], alone[1], atol=1e-3), "this test can't tell the two apart"


# --- which models ----------------------------------------------------------------------------------------------------------------


def test_plain_rope_stays_transformers_own():
    plain = LlamaModel(LlamaConfig(**LAYERS))
    make_stateless(plain)
    assert type(plain.rotary_emb) is LlamaRotaryEmbedding
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    for config in (LlamaConfig(**LAYERS), Qwen2Config(**LAYERS), Phi3Config(**LAYERS), llama_config(rope_parameters=linear)):
        assert stateless_rotary(config) is None


def test_the_published_names_of_the_settings():
    """`rope_scaling` as the folders of InternLM2 and Phi-3 write it, but for "su": Phi3Config refuses that name of longrope."""
    dynamic = LlamaConfig(**LAYERS, rope_theta=1000000, rope_scaling={"type": "dynamic", "factor": 2.0})
    assert isinstance(stateless_rotary(dynamic), DynamicRotary)
    assert stateless_rotary(dynamic).theta == 1000000
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    long = Phi3Config(**LAYERS, original_max_position_embeddings=WINDOW, rope_scaling={"type": "longrope"} | factors)
    assert isinstance(stateless_rotary(long), LongRotary)
    assert stateless_rotary(long).trained_length == WINDOW
