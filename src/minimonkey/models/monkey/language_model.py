"""Qwen-7B on Qwen2's classes, and what it does beyond the length that it was trained with.

Two rules, in evaluation mode alone: with dynamic NTK the rotary base grows with the length of the prompt, in steps, and stays
through its answer; with log-n attention a query at position i looks log(i) / log(seq_length) times as hard. Source:
`modeling_qwen.py` of the published code. There the longest row of a batch, padding included, decides for all; here each row goes
by itself. Knows no picture.

    shapes: B rows, L length of a row, D hidden size, H heads, C channels of a head
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import DynamicCache, Qwen2Model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, apply_rotary_pos_emb, eager_attention_forward

from minimonkey.language_model.layers import CACHE, cache_argument, under_either_name
from minimonkey.language_model.rotary import RowRotary
from minimonkey.models.monkey.configuration import MonkeyTextConfig

STEPS = 16
"""Doublings of the length beyond which the base grows no more: of 2,048 tokens 134 million."""
_prompt_lengths: ContextVar[torch.Tensor | None] = ContextVar("prompt_lengths", default=None)
"""The lengths of the prompts, int64 [B, 1], that what is read now belongs to; None: go by the positions. One a thread."""


class Turned(NamedTuple):
    """How tokens are turned by their positions, and how hard they look."""

    cosines: torch.Tensor
    """[B, L, C]"""
    sines: torch.Tensor
    """[B, L, C]"""
    reach: torch.Tensor
    """Factor of each query, [B, L, 1]."""


class MonkeyRotary(RowRotary):
    """Rotary positions and the factors of queries."""

    def __init__(self, config: MonkeyTextConfig) -> None:
        super().__init__(config)
        self.window, self.grows, self.looks_harder = config.seq_length, config.use_dynamic_ntk, config.use_logn_attn

    def inverse_frequencies(self, lengths: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
        steps = self.window * 2 ** torch.arange(STEPS, device=lengths.device)
        doublings = (lengths > steps).sum(dim=-1, keepdim=True)  # how often the window must double to hold the row
        growth = (2.0 ** (doublings + 1) - 1).where(doublings > 0, 1.0) if self.grows and not self.training else 1.0
        base = self.theta * torch.as_tensor(growth, device=lengths.device) ** (self.channels / (self.channels - 2))
        return 1.0 / base.expand(len(lengths), 1) ** exponents

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Turned:
        """As in RowRotary, for prompts whose lengths were told, or are as long as their greatest positions say."""
        positions = position_ids.to(x.device)
        lengths = _prompt_lengths.get()
        if lengths is None or len(lengths) not in (1, len(positions)):
            lengths = positions.max(dim=-1, keepdim=True).values + 1
        exponents = torch.arange(0, self.channels, 2, device=x.device, dtype=torch.float32) / self.channels
        angles = positions[:, :, None].float() * self.inverse_frequencies(lengths, exponents)[:, None, :]
        angles = torch.cat((angles, angles), dim=-1)
        places = (positions[:, :, None] + 1).float()
        if self.looks_harder and not self.training:
            reach = (places.log() / torch.tensor(float(self.window), device=x.device).log()).where(places > self.window, 1.0)
        else:
            reach = torch.ones_like(places)
        return Turned(angles.cos().to(x.dtype), angles.sin().to(x.dtype), reach.to(x.dtype))


class MonkeyAttention(Qwen2Attention):
    """Qwen2's attention with queries that look harder the farther back they stand."""

    def queries_and_keys(self, hidden: torch.Tensor, turned: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys [B, H, L, C] of what goes into the attention, [B, L, D], turned by their positions as `Turned` says."""
        cosines, sines, reach = turned
        queries = self._heads(self.q_proj(hidden) * reach)
        return apply_rotary_pos_emb(queries, self._heads(self.k_proj(hidden)), cosines, sines)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, ...],
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As in transformers; `kwargs` are the cache and what the implementation of the attention takes."""
        cache = kwargs.pop(CACHE, None)
        queries, keys = self.queries_and_keys(hidden_states, position_embeddings)
        values = self._heads(self.v_proj(hidden_states))
        if cache is not None:
            keys, values = cache.update(keys, values, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        seen, weights = attend(self, queries, keys, values, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(seen.flatten(2)), weights

    def _heads(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MonkeyTextModel(Qwen2Model):
    """Qwen-7B without its head."""

    config: MonkeyTextConfig
    config_class = MonkeyTextConfig

    def __init__(self, config: MonkeyTextConfig) -> None:
        config.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = MonkeyAttention(config, index)
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                nn.init.zeros_(part.bias)
        self.rotary_emb = MonkeyRotary(config)
        self.post_init()

    @under_either_name
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers. A cache remembers how long the prompt was that it was given first: what follows turns by that."""
        if cache is None and (self.config.use_cache if use_cache is None else use_cache) and not self.training:
            cache, use_cache = DynamicCache(config=self.config), True
        given = input_ids if inputs_embeds is None else inputs_embeds
        token = _prompt_lengths.set(self._lengths(given, position_ids, cache))
        try:
            return super().forward(
                input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **cache_argument(cache),
                **kwargs,
            )
        finally:
            _prompt_lengths.reset(token)

    def _lengths(self, given: torch.Tensor | None, position_ids: torch.Tensor | None, cache: Any) -> torch.Tensor | None:
        if cache is None or given is None:
            return None
        known: torch.Tensor | None = getattr(cache, "prompt_lengths", None)
        if known is not None and len(known) in (1, len(given)):
            return known
        if position_ids is None:
            lengths = torch.full((1, 1), cache.get_seq_length() + given.shape[1], device=given.device)
        else:
            lengths = position_ids.max(dim=-1, keepdim=True).values + 1
        cache.prompt_lengths = lengths
        return lengths
