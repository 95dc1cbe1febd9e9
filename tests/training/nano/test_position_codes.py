"""The codes of places go through the model untouched, and nothing else does where they are."""

import math

import pytest
import torch

from minimonkey.errors import UsageError
from minimonkey.training.nano.model_edits import insert_layer
from minimonkey.training.nano.position_codes import TEXT_SHARE, StreamMatrix, add_position_codes, free_directions, position_codes


@pytest.mark.parametrize(("side", "cosines"), [(2, 1), (8, 5), (8, 7)])
def test_a_code_tells_row_and_column(side, cosines):
    codes = position_codes(side, cosines)
    assert codes.shape == (side * side, 2 * cosines)
    first = [math.cos(math.pi * (row + 0.5) / side) / side**0.5 for row in range(side)]
    torch.testing.assert_close(codes[::side, 0], torch.tensor(first))
    torch.testing.assert_close(codes[:side, cosines], torch.tensor(first))
    assert codes.norm(dim=1).max() <= 1
    torch.testing.assert_close(codes.sum(0), torch.zeros(2 * cosines), atol=1e-5, rtol=0)


def test_all_cosines_tell_each_row_from_all_others():
    rows = torch.cat((position_codes(8, 7)[::8, :7], torch.ones(8, 1)), dim=1)
    assert torch.linalg.matrix_rank(rows) == 8
    assert torch.linalg.matrix_rank(rows[:, 2:]) == 6


def test_reserved_directions_are_those_that_matter_least():
    torch.manual_seed(0)
    important = torch.linalg.qr(torch.randn(16, 16)).Q
    strength = torch.cat((torch.full((10,), 5.0), torch.full((6,), 0.1)))
    writer, reader, scale = important * strength @ torch.randn(16, 20), torch.randn(9, 16), torch.rand(16) + 0.5
    reader = reader @ (important * strength) @ important.T
    parts = [StreamMatrix(writer), StreamMatrix(reader.T, scale)]
    before = writer.clone()
    axes = free_directions(parts, 3)
    torch.testing.assert_close(axes.T @ axes, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(axes.sum(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(axes.T @ writer, torch.zeros(3, 20), atol=1e-4, rtol=0)
    torch.testing.assert_close(reader * scale @ axes, torch.zeros(9, 3), atol=1e-4, rtol=0)
    assert (writer - before).norm() < 0.1 * before.norm(), "a loud direction was taken"


@torch.no_grad()
def test_codes_reach_the_language_model_whatever_is_shown(tiny_model):
    """Two pictures of other strokes: along the codes' directions image tokens hold their codes, about as long as they should be, in
    every layer; nothing reads there."""
    model = tiny_model("qwen2", pyramid=None)
    for name, weight in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    side = model.config.vision_config.image_size[0] // 4
    strokes = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(7)) > 0.8
    pixels = torch.where(strokes.repeat_interleave(4, 2).repeat_interleave(4, 3), -2.0, 2.0).expand(-1, 3, -1, -1)
    before = model.get_image_features(pixel_values=pixels).pooler_output.norm(dim=-1).mean()
    axes, text_axes = add_position_codes(model, 1)
    codes = position_codes(math.isqrt(model.config.image_seq_length), 1)
    tokens = model.get_image_features(pixel_values=pixels).pooler_output
    along = tokens @ text_axes
    for picture in along - along.mean(1, keepdim=True):
        length = (picture * codes).sum() / (codes * codes).sum()
        assert (picture - length * codes).norm() < 0.1 * picture.norm(), "another place's code"
        assert 0.7 * TEXT_SHARE * before < length < 1.4 * TEXT_SHARE * before
    for layer in model(inputs_embeds=tokens, output_hidden_states=True).hidden_states[:-1]:
        torch.testing.assert_close(layer @ text_axes, along, atol=1e-3, rtol=1e-3)
    for layer in model.model.language_model.layers:
        heads, mlp = layer.self_attn, layer.mlp
        for readers, norm in (((heads.q_proj, heads.k_proj, heads.v_proj), 0), ((mlp.gate_proj, mlp.up_proj), 1)):
            scale = (layer.input_layernorm, layer.post_attention_layernorm)[norm].weight
            for reader in readers:
                assert (reader.weight * scale @ text_axes).abs().max() < 1e-4
    for layer in model.model.vision_tower.encoder.layer[1:]:
        for reader in (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj):
            assert (reader.weight * layer.layernorm_before.weight @ axes).abs().max() < 1e-4
        assert (layer.mlp.fc1.weight * layer.layernorm_after.weight @ axes).abs().max() < 1e-4
        assert (axes.T @ (layer.mlp.fc2.weight * layer.lambda_2[:, None])).abs().max() < 1e-4


def test_codes_go_through_a_layer_that_was_just_put_in(tiny_model):
    model = tiny_model("qwen2", pyramid=None)
    insert_layer(model, 1)
    add_position_codes(model, 1)
    assert all(weight.isfinite().all() for weight in model.state_dict().values())


def test_codes_need_room(tiny_model):
    model = tiny_model("qwen2", pyramid=None)
    for cosines in (0, math.isqrt(model.config.image_seq_length), 9):
        with pytest.raises(UsageError, match=f"position_codes={cosines}: expected 1 to"):
            add_position_codes(model, cosines)


def test_codes_need_position_embeddings(tiny_model):
    model = tiny_model("qwen2", pyramid=None)
    model.model.vision_tower.embeddings.position_embeddings = None
    with pytest.raises(UsageError, match="position_codes need a vision encoder with absolute position embeddings"):
        add_position_codes(model, 1)


def test_codes_need_layers_that_are_known(tiny_model):
    with pytest.raises(UsageError, match="position_codes: no way is known into the layers of phi3"):
        add_position_codes(tiny_model("phi3", pyramid=None), 1)
