"""Two ways to compute attention where several query heads share a key head (grouped-query attention), on a CPU.

"sdpa_packed" is for few new tokens and many earlier ones. torch's own kernel goes through all keys once for each query head, or
transformers copies each key as often as there are heads that share it. Here the heads of a group stand one behind the other as
further queries: keys are read once, and copied never. Layers of a model called "sdpa" use it.

"sdpa_repeated" is for a whole prompt that OpenVINO reads. It computes attention in one piece, without a map of all scores, only
where there are as many key heads as query heads.

    shapes: B rows, H query heads, K key heads, L queries, S keys, C channels of a head
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED, REPEATED = "sdpa_packed", "sdpa_repeated"
"""Names of these ways to compute attention, beside transformers' "sdpa" and "eager". No model's configuration is called PACKED."""
NOT_PLAIN = ("softcap", "cache", "position_bias")
"""What transformers' own function knows, and packing doesn't, besides dropout and a warning for output_attentions."""
MOST_QUERIES = 256
"""Longer texts go transformers' way: their masks, which packing repeats, would be larger than the copies of keys that it saves."""


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`sdpa_attention_forward` of transformers, faster where it can be, with the same results up to rounding.

    Args:
        module: the attention layer.
        query: [B, H, L, C].
        key: [B, K, S, C].
        value: [B, K, S, C].
        attention_mask: [B or 1, 1, L, S], added or bool as in torch; None for a causal prompt.
        kwargs: as in transformers.

    Returns:
        [B, L, H, C], and None in place of weights.
    """
    rows, heads, length, channels = query.shape
    group = heads // key.shape[1]
    shared = attention_mask.shape[1] == 1 if attention_mask is not None else length == 1
    plain = not kwargs.get("dropout") and not kwargs.get("output_attentions") and not torch.is_grad_enabled()
    plain = plain and all(kwargs.get(name) is None for name in NOT_PLAIN)
    if group == 1 or not shared or not plain or length > MOST_QUERIES or query.device.type != "cpu" or torch.jit.is_tracing():
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if attention_mask is not None:
        attention_mask = attention_mask[:, :, None].expand(-1, -1, group, -1, -1).flatten(2, 3)
    packed = query.reshape(rows, -1, group * length, channels)
    output = nn.functional.scaled_dot_product_attention(packed, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling"))
    return output.reshape(rows, heads, length, -1).transpose(1, 2).contiguous(), None


def repeated_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Causal attention of a prompt without padding to itself; arguments as above, with S = L and no mask.

    Given torch's `enable_gqa`, OpenVINO 2026.4 made maps of all scores in float32 and kept them: 2 GiB a layer for 5,200 tokens.
    """
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    output = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=kwargs.get("scaling"))
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED, packed_attention)
AttentionInterface.register(REPEATED, repeated_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
AttentionMaskInterface.register(REPEATED, sdpa_mask)


class PackedConfig:
    """A text model's configuration as its attention layers read it: "sdpa" reads "sdpa_packed"; all else is as it is.

    transformers compares names: it makes the masks of continuous batching for "sdpa" alone. So the configuration, which the caller
    may use elsewhere, keeps that name; attention layers look a function up by it, and nothing else reads their configuration.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self._config = config

    @property
    def _attn_implementation(self) -> str | None:
        name = self._config._attn_implementation
        return PACKED if name == "sdpa" else name

    def __getattr__(self, name: str) -> Any:
        if name == "_config" or name.startswith("__"):  # a copy that isn't filled yet has none; protocols are those of this class
            raise AttributeError(name)
        return getattr(self._config, name)


def pack_heads(text: nn.Module) -> None:
    """Let a text model compute by "sdpa_packed" where it would by "sdpa", in place.

    Its configuration is left as it is. A model whose query heads share no key heads is left as it is too.

    Args:
        text: a LlamaModel, Phi3Model, Qwen2Model or Qwen3Model.
    """
    for layer in text.modules():
        if getattr(layer, "num_key_value_groups", 1) > 1 and not isinstance(layer.config, PackedConfig):
            layer.config = PackedConfig(layer.config)
