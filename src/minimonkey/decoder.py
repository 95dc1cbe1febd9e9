"""Inside the language model: its layers one by one, what a layer asks and offers, where it looks. Llama, Qwen2, Qwen3, Phi-3.

Masks, rotary module, layers and projections are transformers' own; only the walk is ours. It holds for one unpadded row or several,
from position 0. Knows nothing of pictures, or of what is done with the results.

    shapes: B rows, L length of a row, D hidden size, H query heads, K key heads, C channels of a head
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb  # the one that leaves unrotated channels as they are

from minimonkey.compression import attention_to
from minimonkey.errors import UsageError
from minimonkey.pyramid import Span


@torch.no_grad()
def attention_in_layer(text: nn.Module, embeddings: torch.Tensor, index: int, span: Span) -> torch.Tensor:
    """How much what follows `span` looks at each of its positions in layer `index`: float32 [span's length], the mean over rows and
    heads; `embeddings` [1, L, D] are those of one prompt. Raises UsageError if there is no such layer.
    """
    if len(text.layers) <= index:
        raise UsageError(f"compression asks layer {index + 1} of the language model, which has {len(text.layers)}: leave it out")
    queries, keys = queries_and_keys(text, walk(text, embeddings, range(index)), index)
    scale = text.layers[index].self_attn.scaling
    scores = attention_to(queries[0, :, span.stop :], keys[0], span, scale=scale, window=window(text, index))
    return scores.to(embeddings.device)


def walk(text: nn.Module, hidden: torch.Tensor, layers: range) -> torch.Tensor:
    """Hidden states [B, L, D] after these layers of a text model (LlamaModel, Qwen2Model ...), given those before them.

    The final norm isn't a layer; before layer 0 hidden states are embeddings.
    """
    positions = _positions(hidden)
    rotation = text.rotary_emb(hidden, position_ids=positions)
    for index in layers:
        mask_function = create_causal_mask if window(text, index) is None else create_sliding_window_causal_mask
        mask = mask_function(
            config=text.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None, position_ids=positions
        )
        hidden = text.layers[index](hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotation)
    return hidden


def queries_and_keys(text: nn.Module, hidden: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [B, H, L, C] and keys [B, K, L, C] of layer `index`, turned by their positions; `hidden` [B, L, D] goes into it."""
    layer, rotation = text.layers[index], text.rotary_emb(hidden, position_ids=_positions(hidden))
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
    cosines, sines = (part.to(device) for part in rotation)
    return apply_rotary_pos_emb(queries.transpose(1, 2), keys.transpose(1, 2), cosines, sines)


def window(text: nn.Module, index: int) -> int | None:
    """How many tokens back layer `index` sees, itself included; None if it sees all."""
    kinds = getattr(text.config, "layer_types", None)  # Phi-3 and Llama don't tell layers apart
    slides = kinds is None or kinds[index] == "sliding_attention"
    return getattr(text.config, "sliding_window", None) if slides else None


def _positions(hidden: torch.Tensor) -> torch.Tensor:
    return torch.arange(hidden.shape[1], device=hidden.device)[None]
