"""Monkey's encoder: which states do the patches of a window have, given which window it is?

One encoder for all windows; small adapters (LoRA) in each block bend it for one window of a picture. All windows of all pictures go
through in one batch. Sources: `visual.py` of the published code, arXiv 2311.06607 section 3.1. Knows no picture and no text.

    shapes: T windows, P patches of one, W hidden size, H heads, C channels of a head, n adapters, r rank
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from minimonkey.models.monkey.configuration import MonkeyVisionConfig


class WindowAdapters(nn.Module):
    """n adapters for one linear map: `lora_b(lora_a(x)) * lora_scale`, each for the windows of its number.

    Their weights are stacked, so that windows of all numbers go through at once; a number of n means no adapter. The scale is a
    learned number, there is no factor of alpha and rank.
    """

    def __init__(self, adapters: int, width: int, rank: int, out: int, dropout: float) -> None:
        super().__init__()
        self.lora_a = nn.Parameter(torch.empty(adapters, rank, width))
        self.lora_b = nn.Parameter(torch.zeros(adapters, out, rank))
        self.lora_scale = nn.Parameter(torch.ones(adapters, 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """What to add to the map's output: [T, P, W] and numbers int64 [T] -> [T, P, out]."""
        used = kinds.clamp(max=len(self.lora_a) - 1)
        scale = torch.where(kinds[:, None] < len(self.lora_a), self.lora_scale[used], 0)[..., None]  # [T, 1, 1]
        down = self.dropout(hidden) @ self.lora_a[used].transpose(1, 2)
        return down @ self.lora_b[used].transpose(1, 2) * scale


class MonkeyVisionAttention(nn.Module):
    """Self-attention of a window's patches. Queries, keys and values come from one map, head by head."""

    def __init__(self, config: MonkeyVisionConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        rank, dropout = config.attention_rank, config.adapter_dropout
        self.qkv_adapters = WindowAdapters(config.adapters, width, rank, 3 * width, dropout)
        self.output_adapters = WindowAdapters(config.adapters, width, rank, width, dropout)

    def forward(self, hidden: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        mixed = self.qkv(hidden) + self.qkv_adapters(hidden, kinds)
        queries, keys, values = mixed.unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)  # each [T, H, P, C]
        seen = nn.functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        return self.output(seen) + self.output_adapters(seen, kinds)


class MonkeyVisionMLP(nn.Module):
    def __init__(self, config: MonkeyVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden)))


class MonkeyVisionLayer(GradientCheckpointingLayer):
    """A block. The adapter of the MLP goes round it as a whole: its input is the state before the norm."""

    def __init__(self, config: MonkeyVisionConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = MonkeyVisionAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MonkeyVisionMLP(config)
        width = config.hidden_size
        self.mlp_adapters = WindowAdapters(config.adapters, width, config.mlp_rank, width, config.adapter_dropout)

    def forward(self, hidden: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), kinds)
        return hidden + self.mlp(self.mlp_norm(hidden)) + self.mlp_adapters(hidden, kinds)


class MonkeyVisionModel(PreTrainedModel):
    """Pixel values of windows to the states of their patches."""

    config: MonkeyVisionConfig
    config_class = MonkeyVisionConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["MonkeyVisionLayer"]

    def __init__(self, config: MonkeyVisionConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.patch_embedding = nn.Conv2d(
            config.num_channels, width, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Parameter(torch.empty(config.position_rows, width))
        self.pre_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(MonkeyVisionLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, WindowAdapters):
            init.normal_(module.lora_a, std=self.config.initializer_range)
            init.zeros_(module.lora_b)
            init.ones_(module.lora_scale)
        elif module is self:
            init.normal_(self.position_embedding, std=self.config.hidden_size**-0.5)

    def forward(
        self, pixel_values: torch.Tensor, kinds: torch.Tensor | None = None, *, output_hidden_states: bool = False
    ) -> BaseModelOutput:
        """Encode windows.

        Args:
            pixel_values: float [T, 3, S, S].
            kinds: the number of each window in its picture, int64 [T]; the number of adapters for a view without one, as all are
                if not given.
            output_hidden_states: give the input of each layer and the output of the last, too.

        Returns:
            An output with `last_hidden_state` [T, P, W].
        """
        kinds = pixel_values.new_full((len(pixel_values),), self.config.adapters, dtype=torch.long) if kinds is None else kinds
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        hidden = self.pre_norm(patches + resized(self.position_embedding, patches.shape[1]))
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, kinds)
            states.append(hidden)
        return BaseModelOutput(last_hidden_state=hidden, hidden_states=tuple(states) if output_hidden_states else None)


def resized(table: torch.Tensor, rows: int) -> torch.Tensor:
    """A position table [n, W] of a square of patches, resized bicubically to a square of so many: [rows, W]."""
    if len(table) == rows:
        return table
    old, new = math.isqrt(len(table)), math.isqrt(rows)
    square = table.float().unflatten(0, (old, old)).permute(2, 0, 1)[None]
    resized = nn.functional.interpolate(square, (new, new), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.to(table)
