"""What surgery changes of a trained model, and what it leaves."""

import pytest
import torch

from minimonkey.errors import UsageError
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.training.nano import model_edits as surgery
from minimonkey.training.nano.attention_supervision import MOST_TILES, PlacesHead

SLOWER = {"rope_type": "llama3", "factor": "1e6", "low_freq_factor": 1.0, "high_freq_factor": 2.0}
SLOWER |= {"original_max_position_embeddings": 200}
"""Heads of 8 numbers turn at 1, 0.1, 0.01 and 0.001 radians a token: with this the last two no more."""


@pytest.mark.parametrize("text", ["qwen2", "phi3"])
@torch.no_grad()
def test_an_inserted_layer_changes_nothing_yet(tiny_model, text, tmp_path):
    model = tiny_model(text)
    ids = torch.tensor([[20, 21, 22, 23]])
    before = model(input_ids=ids).logits
    surgery.insert_layer(model, 1)
    assert torch.equal(model(input_ids=ids, use_cache=True).logits, before)
    assert [layer.self_attn.layer_idx for layer in model.model.language_model.layers] == [0, 1, 2]
    model.save_pretrained(tmp_path / "grown")
    again = MiniMonkeyForConditionalGeneration.from_pretrained(tmp_path / "grown")
    torch.testing.assert_close(again(input_ids=ids).logits, before)
    for index in (0, 3):
        with pytest.raises(UsageError, match=f"insert_layer={index}: expected a place between the 3 layers of the language model"):
            surgery.insert_layer(model, index)


@torch.no_grad()
@pytest.mark.parametrize("before", ["default", "dynamic"])
def test_slow_rotations_can_be_stopped(tiny_config, tmp_path, before):
    config = tiny_config("llama")
    if before == "dynamic":
        config.text_config.rope_parameters |= {"rope_type": "dynamic", "factor": 2.0}
    surgery.change_rope(config.text_config, SLOWER)
    model = MiniMonkeyForConditionalGeneration(config).eval()
    turns = model.model.language_model.rotary_emb.inv_freq
    torch.testing.assert_close(turns, torch.tensor([1, 0.1, 1e-8, 1e-9]), rtol=1e-4, atol=0)
    model.save_pretrained(tmp_path / "turned")
    again = MiniMonkeyForConditionalGeneration.from_pretrained(tmp_path / "turned")
    ids = torch.tensor([[20, 21, 22, 23]])
    torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)
    torch.testing.assert_close(again.model.language_model.rotary_emb.inv_freq, turns)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "llama3"}, "rope={'rope_type': 'llama3'}: Missing required keys"),
        ({"rope_type": "lama3"}, "rope: unknown rope_type 'lama3'; the nearest is 'llama3'"),
        ({"factor": 0.0}, "rope: factor=0.0: expected a positive number"),
        ({"factor": "wide"}, "rope: factor='wide': expected a positive number"),
        (SLOWER | {"low_freq_factor": 2.0}, "rope: low_freq_factor=2.0: expected less than high_freq_factor=2.0"),
        ({"theta": 1e6}, "rope: unknown key 'theta'; the nearest is 'rope_theta'"),
    ],
    ids=str,
)
def test_a_wrong_rope_is_an_error_of_one_line(tiny_config, rope, message):
    with pytest.raises(UsageError) as caught:
        surgery.change_rope(tiny_config("qwen2").text_config, rope)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@torch.no_grad()
def test_a_head_that_matches_rows_prefers_its_own_from_afar(tiny_model, tiny_config):
    """Hidden states that say nothing but their row, 1,000 tokens apart; the head's other dimensions are silent."""
    model, side = slow_model(tiny_config), 2
    text, width = model.model.language_model, model.config.text_config.hidden_size
    attention = text.layers[1].self_attn
    others = {name: weight.clone() for name, weight in attention.state_dict().items()}
    for linear in (attention.q_proj, attention.k_proj):
        linear.weight[-8:] = 0
        linear.bias[-8:] = 0
    head = PlacesHead(width, side)
    torch.manual_seed(0)
    head.norm.weight.uniform_(0.5, 1.5)
    head.norm.bias.normal_()
    rows = torch.nn.functional.normalize(torch.randn(side, width), dim=1)
    head.linear.weight[MOST_TILES : MOST_TILES + side] = rows
    surgery.match_tile_rows(text, 1, head, 0.6)
    hidden = text.layers[1].input_layernorm(rows * 5)
    told = head.linear(head.norm(hidden / text.layers[1].input_layernorm.weight))[:, MOST_TILES : MOST_TILES + side]
    assert told.argmax(1).tolist() == [0, 1]
    queries, keys = (linear(hidden).view(side, -1, 8)[:, -1] for linear in (attention.q_proj, attention.k_proj))
    assert torch.equal(queries, keys) and (queries != 0).sum() == side * side
    cos, sin = text.rotary_emb(hidden, position_ids=torch.tensor([[1000, 0]]))
    far, near = cos[0, 0], cos[0, 1]
    turned = queries * far + torch.cat((-queries[:, 4:], queries[:, :4]), 1) * sin[0, 0]
    scores = turned @ (keys * near).T
    assert scores[0, 0] > scores[0, 1] + 0.1 and scores[1, 1] > scores[1, 0] + 0.1
    for name, weight in attention.state_dict().items():
        kept = slice(None, -8) if name[0] in "qk" else slice(None)
        assert torch.equal(weight[kept], others[name][kept]), "another head has changed"


def test_rows_are_matched_only_where_that_can_be(tiny_model, tiny_config):
    width = tiny_config("qwen2").text_config.hidden_size
    quick = MiniMonkeyForConditionalGeneration(own_keys(tiny_config("qwen2")))
    for model, layer, message in (
        (slow_model(tiny_config), 2, "qwen2 with 2 layers lacks what it changes"),
        (tiny_model("phi3"), 1, "phi3 with 2 layers lacks what it changes"),
        (tiny_model("qwen2"), 1, "heads of this language model share keys"),
        (quick, 1, "0 dimensions of a head hardly turn, 2 are needed; stop more with `rope`"),
    ):
        with pytest.raises(UsageError, match=f"match_tile_rows: {message}"):
            surgery.match_tile_rows(model.model.language_model, layer, PlacesHead(width, 2), 0.6)


def own_keys(config):
    config.text_config.num_key_value_heads = config.text_config.num_attention_heads
    return config


def slow_model(tiny_config) -> MiniMonkeyForConditionalGeneration:
    """Qwen2's layers, a key head for each head, slow rotations stopped."""
    config = own_keys(tiny_config("qwen2"))
    surgery.change_rope(config.text_config, SLOWER)
    return MiniMonkeyForConditionalGeneration(config).eval()
