"""Inside the language model: its layers one by one, what a layer asks and offers, how far it looks, what it calls its cache.

For Llama, Qwen2, Qwen3 and Phi-3. Masks, rotary module, layers and projections are transformers' own; only the walk is ours. Knows
nothing of pictures, or of what is done with the results.

    shapes: B rows, L length of a row, D hidden size, H query heads, K key heads, C channels of a head, R rotated channels
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from transformers import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb  # the one that leaves unrotated channels as they are

from minimonkey.errors import UsageError

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
"""What the installed transformers calls a cache, as an argument and in outputs; our own functions always call it `cache`."""
Rotation = tuple[torch.Tensor, ...]
"""Cosines and sines, each [B, L, R]; layers of ours may want more, of as many tokens."""


def under_either_name(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """A function whose `cache` may be called `past_key_values` too, as users call it, and transformers until 5.23.

    Raises UsageError for a call that gives both.
    """

    @wraps(function)
    def renamed(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        given: dict[str, Any] = kwargs
        cache = given.pop("past_key_values", None)
        if cache is not None and given.get("cache") is not None:
            raise UsageError("cache and past_key_values are two names of one argument: leave one of them out")
        if cache is not None:
            given["cache"] = cache
        return function(*args, **kwargs)

    return renamed


def cache_argument(cache: Any) -> dict[str, Any]:
    """A cache, or None, as an argument of transformers. Continuous batching calls its own kind `cache` in every release."""
    return {CACHE if cache is None or isinstance(cache, Cache) else "cache": cache}


def positions_in(mask: torch.Tensor) -> torch.Tensor:
    """Positions in rows whose padding `mask` [B, L] leaves out, as `generate` counts them: int64 [B, L], 0 for padding."""
    mask = mask.long()
    return (mask.cumsum(dim=1) - 1).masked_fill(mask == 0, 0)


def rotation(text: nn.Module, hidden: torch.Tensor, positions: torch.Tensor) -> Rotation:
    """How the tokens of hidden states [B, L, D] at these positions [B, L] are turned, in the hidden states' type."""
    return text.rotary_emb(hidden, position_ids=positions)


def walk(
    text: nn.Module,
    hidden: torch.Tensor,
    layers: range,
    *,
    turned: Rotation,
    mask: torch.Tensor | None = None,
    cache: DynamicCache | None = None,
) -> torch.Tensor:
    """Run these layers of a text model (LlamaModel, Qwen2Model ...); the final norm isn't one. A causal mask [B, 1, L, tokens
    before + L] is made once for all layers that see as far.

    Args:
        text: the language model without its head.
        hidden: what goes into the first of these layers, [B, L, D]; embeddings for layer 0.
        layers: which; they have all read the same tokens before.
        turned: how the tokens are turned by their positions, as `rotation` says.
        mask: leaves padding out, that of what was read before included, [B, tokens before + L]; None if there is none.
        cache: has what these layers read before, and gets keys and values of this too.

    Returns:
        Hidden states behind the last of these layers, [B, L, D].
    """
    masks: dict[int | None, torch.Tensor | None] = {}
    for index in layers:
        sees = window(text, index)
        if sees not in masks:
            mask_function = create_causal_mask if sees is None else create_sliding_window_causal_mask
            # Without position_ids: gaps between positions would count as borders between texts that were packed into one row.
            known = {CACHE: cache} | ({} if cache is None else {"layer_idx": index})
            masks[sees] = mask_function(config=text.config, inputs_embeds=hidden, attention_mask=mask, **known)
        hidden = text.layers[index](hidden, attention_mask=masks[sees], position_embeddings=turned, **{CACHE: cache})
    return hidden


def queries_and_keys(text: nn.Module, hidden: torch.Tensor, index: int, turned: Rotation) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [B, H, L, C] and keys [B, K, L, C] of layer `index`, turned by their positions; `hidden` [B, L, D] goes into it."""
    layer = text.layers[index]
    attention, device = layer.self_attn, layer.input_layernorm.weight.device  # another than before if layers are spread out
    hidden = layer.input_layernorm(hidden.to(device))
    if hasattr(attention, "queries_and_keys"):  # a layer of ours
        found: tuple[torch.Tensor, torch.Tensor] = attention.queries_and_keys(hidden, tuple(part.to(device) for part in turned))
        return found
    if hasattr(attention, "qkv_proj"):  # Phi-3: queries, keys and values in one matrix
        query_width = text.config.num_attention_heads * attention.head_dim
        key_width = text.config.num_key_value_heads * attention.head_dim
        queries, keys, _ = attention.qkv_proj(hidden).split([query_width, key_width, key_width], dim=-1)
    else:
        queries, keys = attention.q_proj(hidden), attention.k_proj(hidden)
    heads = (*hidden.shape[:-1], -1, attention.head_dim)
    queries, keys = queries.view(heads), keys.view(heads)
    if hasattr(attention, "q_norm"):  # Qwen3
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    cosines, sines = (part.to(device) for part in turned)
    return apply_rotary_pos_emb(queries.transpose(1, 2), keys.transpose(1, 2), cosines, sines)


def window(text: nn.Module, index: int) -> int | None:
    """How many tokens back layer `index` sees, itself included; None if it sees all."""
    kinds = getattr(text.config, "layer_types", None)  # Phi-3 and Llama don't tell layers apart
    slides = kinds is None or kinds[index] == "sliding_attention"
    return getattr(text.config, "sliding_window", None) if slides else None
