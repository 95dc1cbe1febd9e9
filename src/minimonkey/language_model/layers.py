"""Inside the language model: its layers one by one, their queries and keys, their sliding windows, the name of their cache.

For Llama, Qwen2, Qwen3 and Phi-3. Masks, rotary module, layers and projections are transformers' own; only the loop over the layers
is ours. Knows nothing of pictures, or of what is done with the results.

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
CosSin = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of rotary positions, each [B, L, R]."""


def under_either_name(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """A function whose `cache` may be called `past_key_values` too, as users call it, and transformers until 5.23.

    Args:
        function: one with an argument `cache`.

    Returns:
        The same function; a call that gives both raises UsageError.
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


def rotary_cos_sin(text: nn.Module, hidden: torch.Tensor, positions: torch.Tensor) -> CosSin:
    """The rotary cosines and sines of tokens.

    Args:
        text: the language model without its head.
        hidden: hidden states of the tokens, [B, L, D]; they give the type and the device.
        positions: int [B, L].

    Returns:
        Cosines and sines, each [B, L, R].
    """
    return text.rotary_emb(hidden, position_ids=positions)


def run_layers(
    text: nn.Module,
    hidden: torch.Tensor,
    layers: range,
    *,
    cos_sin: CosSin,
    mask: torch.Tensor | None = None,
    cache: DynamicCache | None = None,
) -> torch.Tensor:
    """Run some layers of a text model (LlamaModel, Qwen2Model ...), without the final norm.

    A causal mask [B, 1, L, tokens before + L] is made once for all layers with the same sliding window.

    Args:
        text: the language model without its head.
        hidden: input of the first of these layers, [B, L, D]; embeddings for layer 0.
        layers: which layers; all of them have read the same tokens before.
        cos_sin: rotary cosines and sines of the tokens, from `rotary_cos_sin`.
        mask: 0 for padding, that of earlier tokens included: int [B, tokens before + L]; None if there is no padding.
        cache: keys and values of earlier tokens in these layers; gets those of the new tokens too, in place.

    Returns:
        Output of the last of these layers, [B, L, D].
    """
    masks: dict[int | None, torch.Tensor | None] = {}
    for index in layers:
        window = sliding_window(text, index)
        if window not in masks:
            mask_function = create_causal_mask if window is None else create_sliding_window_causal_mask
            # Without position_ids: gaps between positions would count as borders between texts that were packed into one row.
            known = {CACHE: cache} | ({} if cache is None else {"layer_idx": index})
            masks[window] = mask_function(config=text.config, inputs_embeds=hidden, attention_mask=mask, **known)
        hidden = text.layers[index](hidden, attention_mask=masks[window], position_embeddings=cos_sin, **{CACHE: cache})
    return hidden


def queries_and_keys(text: nn.Module, hidden: torch.Tensor, index: int, cos_sin: CosSin) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys of one layer, rotated by their positions.

    Args:
        text: the language model without its head.
        hidden: input of the layer, [B, L, D].
        index: which layer, from 0.
        cos_sin: rotary cosines and sines of the tokens, from `rotary_cos_sin`.

    Returns:
        Queries [B, H, L, C] and keys [B, K, L, C].
    """
    layer = text.layers[index]
    attention, device = layer.self_attn, layer.input_layernorm.weight.device  # another than before if layers are spread out
    hidden = layer.input_layernorm(hidden.to(device))
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
    cosines, sines = (part.to(device) for part in cos_sin)
    return apply_rotary_pos_emb(queries.transpose(1, 2), keys.transpose(1, 2), cosines, sines)


def sliding_window(text: nn.Module, index: int) -> int | None:
    """How many tokens a query of layer `index` sees, itself included; None if it sees all before it."""
    kinds = getattr(text.config, "layer_types", None)  # Phi-3 and Llama don't tell layers apart
    slides = kinds is None or kinds[index] == "sliding_attention"
    return getattr(text.config, "sliding_window", None) if slides else None
