"""The codes of places go through the model untouched, and nothing else does where they are."""

import math

import pytest
import torch

from minimonkey.errors import UsageError
from minimonkey.training.lessons import MOST_TILES, PlacesHead
from minimonkey.training.place_codes import Part, give_places, match_rows, place_codes, reserve
from minimonkey.training.run import change_rope


@pytest.mark.parametrize(("side", "cosines"), [(2, 1), (8, 5), (8, 7)])
def test_a_code_tells_row_and_column(side, cosines):
    codes = place_codes(side, cosines)
    assert codes.shape == (side * side, 2 * cosines)
    first = [math.cos(math.pi * (row + 0.5) / side) / side**0.5 for row in range(side)]
    torch.testing.assert_close(codes[::side, 0], torch.tensor(first))
    torch.testing.assert_close(codes[:side, cosines], torch.tensor(first))
    assert codes.norm(dim=1).max() <= 1
    torch.testing.assert_close(codes.sum(0), torch.zeros(2 * cosines), atol=1e-5, rtol=0)


def test_all_cosines_tell_each_row_from_all_others():
    rows = torch.cat((place_codes(8, 7)[::8, :7], torch.ones(8, 1)), dim=1)
    assert torch.linalg.matrix_rank(rows) == 8
    assert torch.linalg.matrix_rank(rows[:, 2:]) == 6


def test_reserved_directions_are_those_that_matter_least():
    torch.manual_seed(0)
    important = torch.linalg.qr(torch.randn(16, 16)).Q
    strength = torch.cat((torch.full((10,), 5.0), torch.full((6,), 0.1)))
    writer, reader, scale = important * strength @ torch.randn(16, 20), torch.randn(9, 16), torch.rand(16) + 0.5
    reader = reader @ (important * strength) @ important.T
    parts = [Part(writer), Part(reader.T, scale)]
    before = writer.clone()
    axes = reserve(parts, 3)
    torch.testing.assert_close(axes.T @ axes, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(axes.sum(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(axes.T @ writer, torch.zeros(3, 20), atol=1e-4, rtol=0)
    torch.testing.assert_close(reader * scale @ axes, torch.zeros(9, 3), atol=1e-4, rtol=0)
    assert (writer - before).norm() < 0.1 * before.norm(), "a loud direction was taken"


@torch.no_grad()
def test_codes_reach_the_last_layer_of_the_language_model(tiny_model):
    """Two pictures with nothing in common: along the codes' directions, hidden states of a place are alike everywhere."""
    model = tiny_model("qwen2", pyramid=None)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    text_axes = give_places(model, 1)[1]
    side = math.isqrt(model.config.image_seq_length)
    pixels = torch.randn(2, 3, *model.config.vision_config.image_size, generator=torch.Generator().manual_seed(0))
    tokens = model.get_image_features(pixel_values=pixels).pooler_output
    along = tokens @ text_axes
    codes = place_codes(side, 1)
    for picture in along:
        told = torch.linalg.lstsq(torch.cat((picture, torch.ones(len(picture), 1)), 1), codes).solution
        missed = torch.cat((picture, torch.ones(len(picture), 1)), 1) @ told - codes
        assert missed.norm() < 0.1 * codes.norm()
    hidden = model(inputs_embeds=tokens, output_hidden_states=True).hidden_states[:-1]
    for layer in hidden:
        torch.testing.assert_close(layer @ text_axes, along, atol=1e-4, rtol=1e-3)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert "model.vision_tower.embeddings.position_embeddings" in changed and "model.language_model.norm.weight" not in changed


def test_codes_need_room(tiny_model):
    model = tiny_model("qwen2", pyramid=None)
    for cosines in (0, math.isqrt(model.config.image_seq_length), 9):
        with pytest.raises(UsageError, match=f"place_codes={cosines}: expected 1 to"):
            give_places(model, cosines)


def test_codes_need_layers_that_are_known(tiny_model):
    with pytest.raises(UsageError, match="place_codes: no way is known into the layers of phi3"):
        give_places(tiny_model("phi3", pyramid=None), 1)


@torch.no_grad()
def test_a_head_that_matches_rows_prefers_its_own(tiny_model):
    """Hidden states that say nothing but their row; the head's other dimensions are silent."""
    model = tiny_model("qwen2", pyramid=None)
    text, side = model.model.language_model, 2
    slow = {"rope_type": "llama3", "factor": 1e6, "low_freq_factor": 1.0, "high_freq_factor": 2.0}
    change_rope(model, slow | {"original_max_position_embeddings": 200})
    attention, width = text.layers[1].self_attn, model.config.text_config.hidden_size
    for linear in (attention.q_proj, attention.k_proj):
        linear.weight.zero_()
        linear.bias.zero_()
    head = PlacesHead(width, side)
    rows = torch.nn.functional.normalize(torch.randn(side, width, generator=torch.Generator().manual_seed(0)), dim=1)
    head.linear.weight[MOST_TILES : MOST_TILES + side] = rows
    match_rows(text, 1, head, 0.6)
    hidden = text.layers[1].input_layernorm(rows * 5)
    queries, keys = (linear(hidden).view(side, -1, 8)[:, -1] for linear in (attention.q_proj, attention.k_proj))
    scores = queries @ keys.T
    assert scores[0, 0] > scores[0, 1] + 0.5 and scores[1, 1] > scores[1, 0] + 0.5
    touched = attention.q_proj.weight.abs().sum(1).nonzero()[:, 0] - len(attention.q_proj.weight)
    assert len(touched) == side and set(touched.tolist()) <= {-6, -5, -2, -1}, "dimensions of the last head that hardly turn"


def test_rows_are_matched_where_the_head_hardly_turns(tiny_model):
    model = tiny_model("qwen2", pyramid=None)
    with pytest.raises(UsageError, match="match_rows: 0 dimensions of a head turn slowly enough, 4 are needed; see `rope`"):
        match_rows(model.model.language_model, 1, PlacesHead(model.config.text_config.hidden_size, 4), 0.6)
