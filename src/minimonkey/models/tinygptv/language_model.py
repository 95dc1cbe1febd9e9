"""Phi-2 as TinyGPT-V changed it: transformers' Phi, but for the attention of each layer.

Queries, keys and values come from one matrix, head by head; queries and keys are normalised before they are turned; an RMS norm
stands behind the attention; low-rank updates of the two matrices are trained beside them and stay beside them.

    shapes: B rows, L length of a row, D hidden size, H heads, C channels of a head, R rank of an update
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PhiModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi.modeling_phi import PhiAttention, eager_attention_forward
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb  # the one that leaves unrotated channels as they are

from minimonkey.language_model.layers import CACHE
from minimonkey.models.tinygptv.configuration import TinyGPTVTextConfig

POST_LAYERNORM_EPS = 1e-6
"""A constant of the published `LlamaRMSNorm`; the other norms have `layer_norm_eps`."""


class LowRankUpdate(nn.Module):
    """What low-rank adaptation (LoRA) adds to the output of a matrix: `B(A(x)) * alpha / rank`."""

    def __init__(self, config: TinyGPTVTextConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.scaling = config.lora_alpha / config.lora_rank
        self.dropout = nn.Dropout(config.lora_dropout)
        self.lora_A = nn.Linear(inputs, config.lora_rank, bias=False)
        self.lora_B = nn.Linear(config.lora_rank, outputs, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs [..., in] to what is added to the output [..., out]."""
        return self.lora_B(self.lora_A(self.dropout(inputs))) * self.scaling


class TinyGPTVAttention(PhiAttention):
    """Phi's attention with one matrix for queries, keys and values, updates beside its matrices, and a norm behind it."""

    def __init__(self, config: TinyGPTVTextConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        del self.q_proj, self.k_proj, self.v_proj
        width = config.hidden_size
        self.query_key_value = nn.Linear(width, 3 * width)
        self.post_layernorm = nn.RMSNorm(width, eps=POST_LAYERNORM_EPS)
        if config.lora_rank:
            self.query_key_value_update = LowRankUpdate(config, width, 3 * width)
            self.dense_update = LowRankUpdate(config, width, width)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states [B, L, D] to what the residual stream gets, [B, L, D], and the weights where they are asked for."""
        cache = kwargs.pop(CACHE, None)
        query, key, value = self.heads(hidden_states)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        output = output.flatten(2)
        output = self.dense(output) + self.dense_update(output) if self.config.lora_rank else self.dense(output)
        return self.post_layernorm(output), weights

    def heads(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries and keys, normalised and not turned yet, and values of hidden states [B, L, D]: each [B, H, L, C]."""
        fused = self.query_key_value(hidden)
        if self.config.lora_rank:
            fused = fused + self.query_key_value_update(hidden)
        query, key, value = fused.unflatten(-1, (-1, 3, self.head_dim)).transpose(1, 2).unbind(dim=-2)
        return self.q_layernorm(query), self.k_layernorm(key), value


class TinyGPTVTextModel(PhiModel):
    """PhiModel with the attention of TinyGPT-V."""

    config: TinyGPTVTextConfig
    config_class = TinyGPTVTextConfig

    def __init__(self, config: TinyGPTVTextConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = TinyGPTVAttention(config, index)
        self.post_init()
