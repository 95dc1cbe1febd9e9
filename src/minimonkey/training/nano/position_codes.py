"""Position codes written into the weights of a trained model: image tokens tell where in their tile they stand.

Absolute position embeddings may be a hundredth of what the layers of a vision encoder add to them; a language model behind it can
hardly tell rows from columns then. Here a code for row and column gets directions of its own, those with the smallest weights: no
layer writes there any more, and none reads there yet, in the encoder and in the language model. A few units of the projector, those
with the smallest weights, carry it across. All of it can be trained further.

Shape legend: D size of hidden states, K numbers of a code, S side of a tile in image tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from minimonkey.errors import UsageError
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration

ENCODER_SHARE, TEXT_SHARE = 0.2, 0.27
"""Length of a code beside that of an embedded patch, and beside that of what the projector makes of an image token."""
LINEAR_FROM, SWING = 3.0, 3.0
"""GELU is nearly linear from about 1.5 on: the units that carry codes lie around `LINEAR_FROM`. On the tiles of
`_lengths` a code is at most `SWING` long there."""


class StreamMatrix(NamedTuple):
    """A matrix that writes into a stream of hidden states, or reads it."""

    matrix: torch.Tensor
    """[D, anything]; a view, so that what is changed here is changed in the model"""
    scale: torch.Tensor | float = 1.0
    """[D]: what the stream's side of it is multiplied by"""


def position_codes(side: int, cosines: int) -> torch.Tensor:
    """For each token of a tile, row by row: cosines that tell its row, and as many for its column. [S * S, K = 2 cosines]

    Those of the discrete cosine transform, lowest first: with S - 1 of them any row is told from all others by a linear map. A code
    is at most 1 long.
    """
    places = torch.arange(side).add(0.5) / side
    axis = torch.cos(math.pi * places[:, None] * torch.arange(1, cosines + 1)) / side**0.5
    rows = axis[:, None].expand(side, side, -1)
    return torch.cat((rows, rows.transpose(0, 1)), dim=-1).flatten(0, 1)


@torch.no_grad()
def add_position_codes(model: MiniMonkeyForConditionalGeneration, cosines: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Let image tokens carry the code of their row and column from the first layer of the encoder on, in place.

    Args:
        model: is changed.
        cosines: numbers of a code for the row, and as many for the column.

    Returns:
        The directions [D, K] that codes have in the encoder and in the language model.

    Raises:
        UsageError: more cosines than tell rows apart, a model that is too narrow, or one whose layers have other parts.
    """
    vision, projector = model.model.vision_tower, model.model.multi_modal_projector
    side = math.isqrt(model.config.image_seq_length)
    width = min(vision.config.hidden_size, model.config.text_config.hidden_size, projector.linear_1.out_features)
    if not 0 < cosines < side or 2 * cosines > width // 4:
        raise UsageError(
            f"position_codes={cosines}: expected 1 to {min(side - 1, width // 8)} for {side} rows and a width of {width}"
        )
    if vision.embeddings.position_embeddings is None:
        raise UsageError("position_codes need a vision encoder with absolute position embeddings; leave them out")
    if not hasattr(model.model.language_model.layers[0].self_attn, "q_proj"):
        raise UsageError(f"position_codes: no way is known into the layers of {model.config.text_config.model_type}; leave it out")
    codes = position_codes(side, cosines)
    patches, encoded, tokens = _lengths(model)
    axes = free_directions(list(_vision_parts(model)), codes.shape[1])
    text_axes = free_directions(list(_text_parts(model)), codes.shape[1])

    embeddings, length = vision.embeddings, ENCODER_SHARE * patches
    by_patch = codes.view(side, 1, side, 1, -1).expand(side, 2, side, 2, -1).flatten(0, 3)
    embeddings.position_embeddings[0, 1:] += length * by_patch @ axes.T
    vision.encoder.layer[0].layernorm_before.weight *= (1 + ENCODER_SHARE**2) ** 0.5  # what is read there stays as large

    merged = projector.layer_norm.weight.shape[0]
    swing = merged**0.5 * length * (merged // len(axes)) / encoded  # of a code, summed over the patches of a token
    carriers = projector.linear_1.weight.norm(dim=1).mul(projector.linear_2.weight.norm(dim=0)).argsort()[: codes.shape[1]]
    reading = axes.repeat(merged // len(axes), 1) / projector.layer_norm.weight[:, None] * SWING / swing
    projector.linear_1.weight[carriers] = reading.T
    projector.linear_1.bias[carriers] = LINEAR_FROM - reading.T @ projector.layer_norm.bias
    writing = text_axes * TEXT_SHARE * tokens / SWING
    projector.linear_2.weight[:, carriers] = writing
    projector.linear_2.bias -= LINEAR_FROM * writing.sum(1)
    return axes, text_axes


def free_directions(parts: list[StreamMatrix], count: int) -> torch.Tensor:
    """The `count` directions [D, count] of a stream in which its parts have least weight; none writes or reads there any more."""
    cost = torch.zeros(len(parts[0].matrix), len(parts[0].matrix))
    for matrix, scale in parts:
        scaled = matrix.float() * torch.as_tensor(scale).reshape(-1, 1)
        cost += scaled @ scaled.T / scaled.norm().square().clamp(min=1e-12)  # a layer that was just put in is zero
    cost += 1.0  # LayerNorm takes the mean away: not along (1, ..., 1)
    axes = torch.linalg.eigh(cost).eigenvectors[:, :count]
    axes = torch.linalg.qr(axes - axes.mean(0)).Q
    for matrix, scale in parts:
        across = torch.linalg.qr(axes * torch.as_tensor(scale).reshape(-1, 1)).Q.to(matrix.dtype)
        matrix -= across @ (across.T @ matrix)
    return axes


def _vision_parts(model: MiniMonkeyForConditionalGeneration) -> Iterator[StreamMatrix]:
    vision, projector = model.model.vision_tower, model.model.multi_modal_projector
    yield StreamMatrix(vision.embeddings.patch_embeddings.projection.weight.flatten(1))
    for layer in vision.encoder.layer:
        attention, mlp = layer.attention, layer.mlp
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj):
            yield StreamMatrix(reader.weight.T, layer.layernorm_before.weight)
        yield StreamMatrix(attention.projection_layer.weight, layer.lambda_1)
        yield StreamMatrix(mlp.fc1.weight.T, layer.layernorm_after.weight)
        yield StreamMatrix(mlp.fc2.weight, layer.lambda_2)
    read, width = projector.linear_1.weight.T, vision.config.hidden_size
    for patch, scale in zip(read.split(width), projector.layer_norm.weight.split(width), strict=True):
        yield StreamMatrix(patch, scale)


def _text_parts(model: MiniMonkeyForConditionalGeneration) -> Iterator[StreamMatrix]:
    text = model.model.language_model
    yield StreamMatrix(text.embed_tokens.weight.T)
    yield StreamMatrix(model.model.multi_modal_projector.linear_2.weight)
    for layer in text.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj):
            yield StreamMatrix(reader.weight.T, layer.input_layernorm.weight)
        yield StreamMatrix(attention.o_proj.weight)
        for reader in (mlp.gate_proj, mlp.up_proj):
            yield StreamMatrix(reader.weight.T, layer.post_attention_layernorm.weight)
        yield StreamMatrix(mlp.down_proj.weight)


def _lengths(model: MiniMonkeyForConditionalGeneration) -> tuple[float, float, float]:
    """How long an embedded patch is, the encoder's output for the patches of a token, and what the projector makes of it: means
    over two tiles of strokes."""
    side = model.config.vision_config.image_size[0]
    strokes = torch.rand(2, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(0)) > 0.8
    pixels = torch.where(strokes.repeat_interleave(4, 2).repeat_interleave(4, 3), -2.0, 2.0).expand(-1, 3, -1, -1)
    patches = model.model.vision_tower.embeddings(pixels)[:, 1:]
    encoded = model.get_image_features(pixel_values=pixels)
    of_patch, of_token = (each.norm(dim=-1).mean().item() for each in (encoded.last_hidden_state[:, 1:], encoded.pooler_output))
    return patches.norm(dim=-1).mean().item(), 2 * of_patch, of_token  # four patches to a token
