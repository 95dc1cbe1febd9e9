"""Edits of a trained model that a recipe asks for before its first step, in place: one layer more, other rope, position codes.

What was learnt mostly survives; the first few hundred steps mend the rest.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from minimonkey.errors import UsageError, unknown
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.training.nano.attention_supervision import MOST_TILES, PlacesHead
from minimonkey.training.nano.config import TrainConfig
from minimonkey.training.nano.losses import Losses
from minimonkey.training.nano.position_codes import add_position_codes

SLOW = 1e-4
"""A pair of a head's dimensions that turns by less than this a token, in radians, can be compared over 1,000 tokens."""


def apply_edits(losses: Losses, config: TrainConfig) -> None:
    """Apply all edits that a recipe asks for, but for `rope` (see `change_rope`)."""
    model = losses.model
    if config.insert_layer is not None:
        insert_layer(model, config.insert_layer)
        losses.supervision.set_layers(model.config.text_config.num_hidden_layers)
    if config.position_codes is not None:
        add_position_codes(model, config.position_codes)
    if config.match_tile_rows > 0:
        layer, head = losses.supervision.reading_layer + 1, losses.supervision.places_head
        match_tile_rows(model.model.language_model, layer, head, config.match_tile_rows)


def change_rope(text_config: Any, changes: dict[str, Any]) -> None:
    """Change the `rope_parameters` of a language model that is still to be made.

    Raises UsageError for unknown keys and types, and where a type needs what isn't there.
    """
    for key in changes:
        if key not in RopeParameters.__annotations__:
            raise UsageError(unknown("rope: unknown key", key, RopeParameters.__annotations__))
    kinds = ("default", *ROPE_INIT_FUNCTIONS)
    if (kind := changes.get("rope_type", "default")) not in kinds:
        raise UsageError(unknown("rope: unknown rope_type", kind, kinds))
    numbers = {key: _positive(key, value) for key, value in changes.items() if key != "rope_type"}
    text_config.rope_parameters = {**text_config.rope_parameters, **changes, **numbers}
    low, high = (text_config.rope_parameters.get(f"{name}_freq_factor") for name in ("low", "high"))
    if low is not None and high is not None and low >= high:
        raise UsageError(f"rope: low_freq_factor={low}: expected less than high_freq_factor={high}")
    try:
        text_config.validate_rope()
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"rope={changes}: {error.args[0]}") from error


def _positive(key: str, value: Any) -> Any:
    """A number, or each of a list; YAML takes 1e6 for a string. What isn't one or isn't positive would train on NaN."""
    if isinstance(value, list):
        return [_positive(key, each) for each in value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"rope: {key}={value!r}: expected a positive number")
    return number if isinstance(value, str) else value


def insert_layer(model: MiniMonkeyForConditionalGeneration, index: int) -> None:
    """Put a layer into the language model at `index` that adds nothing to the hidden states yet."""
    text = model.model.language_model
    if not 0 < index < len(text.layers):
        raise UsageError(f"insert_layer={index}: expected a place between the {len(text.layers)} layers of the language model")
    layer = copy.deepcopy(text.layers[index], {id(text.config): text.config})  # all layers follow one configuration
    for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
        torch.nn.init.zeros_(projection.weight)
    text.layers.insert(index, layer)
    for place, each in enumerate(text.layers):
        each.self_attn.layer_idx = place
    text.config.num_hidden_layers = len(text.layers)
    if getattr(text.config, "layer_types", None):
        text.config.layer_types = [*text.config.layer_types[: index + 1], *text.config.layer_types[index:]]


@torch.no_grad()
def match_tile_rows(text: nn.Module, layer: int, places_head: PlacesHead, strength: float) -> None:
    """Have the last head of a layer prefer tokens that stand in the row of their tile that the query's token knows of.

    A weight that reads a code in queries learns only as far as keys have it, and the other way round. So as many of the head's slow
    dimensions as a tile has rows, those with the smallest weights, get what `places_head` says of the row, in queries and in keys.
    Raises UsageError where a head has too few that hardly turn, where heads share keys, and for layers with other parts.
    """
    attention = text.layers[layer].self_attn if layer < len(text.layers) else None
    turns = getattr(text.rotary_emb, "inv_freq", None)
    if attention is None or turns is None or not hasattr(attention, "q_proj"):
        raise UsageError(
            f"match_tile_rows: {text.config.model_type} with {len(text.layers)} layers lacks what it changes; set it to 0"
        )
    queries, keys, side = attention.q_proj, attention.k_proj, places_head.side
    if queries.weight.shape != keys.weight.shape:
        raise UsageError("match_tile_rows: heads of this language model share keys, the others would change, too; set it to 0")
    slow = (turns < SLOW).nonzero()[:, 0]
    dims = torch.cat((slow - attention.head_dim, slow - attention.head_dim // 2))  # of the last head, counted from the end
    if len(dims) < side:
        raise UsageError(f"match_tile_rows: {len(dims)} dimensions of a head hardly turn, {side} are needed; stop more with `rope`")
    pick = dims[queries.weight[dims].norm(dim=1).mul(keys.weight[dims].norm(dim=1)).argsort()[:side]]
    rows = slice(MOST_TILES, MOST_TILES + side)
    told = places_head.linear.weight[rows] * places_head.norm.weight
    constant = places_head.linear.bias[rows] + places_head.linear.weight[rows] @ places_head.norm.bias
    told = told - told.mean(1, keepdim=True)  # LayerNorm takes the mean away, RMSNorm doesn't
    for linear in (queries, keys):
        linear.weight[pick] = strength * (told - told.mean(0)) / text.layers[layer].input_layernorm.weight
        if linear.bias is not None:
            linear.bias[pick] = strength * (constant - constant.mean())
