"""Monkey's resampler: the patches of a window become as many image tokens as there are learned queries.

One cross-attention, the same for all windows and for the global view. Source: `Resampler` and the end of `VisionTransformer` in
the published `visual.py`, which are Qwen-VL's.

    shapes: T windows, P patches of one, W hidden size of the encoder, N queries, D hidden size of the language model
"""

from __future__ import annotations

import torch
from torch import nn

from minimonkey.models.monkey.configuration import MonkeyConfig
from minimonkey.models.monkey.vision import resized


class MonkeyResampler(nn.Module):
    """[T, P, W] -> [T, N, D]. The table of positions is stored: it may differ from the sines that it began as."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        vision, width = config.vision_config, config.text_config.hidden_size
        eps, self.heads = vision.layer_norm_eps, vision.resampler_heads
        self.query = nn.Parameter(torch.empty(vision.queries, width))
        self.position_embedding = nn.Parameter(torch.empty(vision.queries, width))
        self.key_value_proj = nn.Linear(vision.hidden_size, width, bias=False)
        self.key_value_norm, self.query_norm = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.post_norm = nn.LayerNorm(width, eps=eps)
        self.projection = nn.Parameter(torch.empty(width, width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.post_norm(self.attend(states)) @ self.projection

    def attend(self, states: torch.Tensor) -> torch.Tensor:
        """What the queries gather from the patches, before the last norm: [T, P, W] -> [T, N, D]."""
        values = self.key_value_norm(self.key_value_proj(states))
        keys = values + resized(self.position_embedding, states.shape[1])  # values have no positions
        queries = (self.query_norm(self.query) + self.position_embedding).expand(len(states), -1, -1)
        parts = ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        heads = (project(part).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project, part in parts)
        return self.o_proj(nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
